"""What recipes do with a weight as a matrix, for sparse layers, whose weight is flat: norms and initialisers.

docs/flat-weight.md says what else reads a weight as a matrix, and what becomes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .nn import SparseLayer
from .nn.norms import Norm, SpectralNorm, WeightNorm, norm_of

__all__ = ["init_", "remove_norm", "spectral_norm", "weight_norm"]

L = TypeVar("L", bound=SparseLayer)


def spectral_norm(layer: L, n_power_iterations: int = 1, eps: float = 1e-12) -> L:
    """`torch.nn.utils.parametrizations.spectral_norm` of a sparse layer: it multiplies by W / sigma, sigma being W's largest
    singular value (Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks").

    W is the matrix [out, in], of a convolution [out_channels, in_channels / groups * kernel]. `layer.weight` stays W, and the
    layer's submodule `spectral_norm` holds the singular vectors. The power method multiplies by the layer's own kernels.
    A Sparsifier may regrow the layer: growth sees what sigma contributes to the gradient.

    Args:
        layer: a sparse layer.
        n_power_iterations: steps of the power method in each forward pass in training mode, at least 1.
        eps: sigma, and the norms of the singular vectors, are at least this.

    Returns:
        The layer.

    Raises:
        TypeError: it is no sparse layer.
        ValueError: it has a norm already, or n_power_iterations is less than 1.
    """
    _check("spectral_norm", layer)
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: expected n_power_iterations of at least 1, got {n_power_iterations}")
    return _attach(layer, SpectralNorm(layer, n_power_iterations, eps))


def weight_norm(layer: L) -> L:
    """`torch.nn.utils.parametrizations.weight_norm` of a sparse layer with a packed weight, row by row: it multiplies by
    g W / |W| (Salimans and Kingma 2016, "Weight Normalization").

    `layer.weight` stays W, whose scale no longer matters, and `layer.weight_norm.g` [rows] holds the norms. Build the optimizer
    afterwards: g is a new parameter.

    Args:
        layer: a sparse layer; its function stays as it is.

    Returns:
        The layer.

    Raises:
        TypeError: it is no sparse layer.
        ValueError: it has a norm already, or a dense weight, of which products use a part.
    """
    _check("weight_norm", layer)
    if layer.chosen_by is not None:
        raise ValueError(f"weight_norm: expected a packed weight, got a dense one of layout {layer.layout!r}; keep it without")
    return _attach(layer, WeightNorm(layer))


@torch.no_grad()
def remove_norm(layer: L) -> L:
    """Takes off `spectral_norm` or `weight_norm`: from now on the weight itself holds what the layer multiplied by.

    Args:
        layer: a sparse layer with a norm.

    Returns:
        The layer, of the same function.

    Raises:
        ValueError: it has none.
    """
    norm = norm_of(layer)
    if norm is None:
        raise ValueError(f"remove_norm: expected a layer with a norm of sparse_ext.utils, got {type(layer).__name__} without")
    at = layer.slots()
    rows = at.clamp(min=0) // max(1, layer.product.cols)
    layer.weight.mul_(norm.scale(layer)[rows].masked_fill(at < 0, 1))
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for number in [number for number, hook in hooks.items() if hook is norm.HOOK]:
            del hooks[number]
    delattr(layer, norm.NAME)
    return layer


@torch.no_grad()
def init_(layer: SparseLayer, function: Callable[..., Any], *args: Any, scaled: bool = True, **kwargs: Any) -> None:
    """Initialises the weight by a function for matrices, such as those of `torch.nn.init`; the positions stay.

    The function fills a dense matrix, of which the layer takes the values at its positions.

    Args:
        layer: a sparse layer.
        function: called with a tensor of the dense weight's shape, which it fills in place, and these args and kwargs.
        scaled: whether the values are then divided by the square root of the density. So outputs keep the scale that the
            function gives a dense layer's, since a row has fewer weights. A dense weight has all of them, and is not scaled.

    Raises:
        TypeError: it is no sparse layer.

    Example:
        init_(layer, nn.init.kaiming_normal_, nonlinearity="relu")
        init_(layer, nn.init.trunc_normal_, std=0.02)
    """
    _check("init_", layer)
    dense = layer.weight.new_empty(layer.product.weight_shape)
    function(dense, *args, **kwargs)
    if scaled and layer.chosen_by is None and layer.nnz:
        dense /= math.sqrt(layer.density)
    layer.set_matrix_(dense, layer.mask())


def _check(name: str, layer: Any) -> None:
    if not isinstance(layer, SparseLayer):
        raise TypeError(f"{name}: expected a sparse layer, got {type(layer).__name__}; for dense layers there is torch's own")


def _attach(layer: L, norm: Norm) -> L:
    if (present := norm_of(layer)) is not None:
        raise ValueError(f"{norm.NAME}: expected a layer without a norm, got one with {present.NAME}; use remove_norm first")
    layer.add_module(norm.NAME, norm.train(layer.training))
    norm.attach_(layer)
    return layer
