"""Spectral and weight normalisation of sparse layers, and the refusal of torch's own, which would take a flat weight's norm.

The layer's parameter stays the weight that is not normalised: optimizers, checkpoints and a Sparsifier find it where it was.
What is normalised is the product: hooks scale its input or its output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sparse_ext.ops import Conv2d, Linear, multiply
from sparse_ext.ops.dense_grad import images_seen_once

from .foreign import skips_proxies
from .layer import SparseLayer


def product_with(layer: SparseLayer, weight: torch.Tensor, vector: torch.Tensor, observed: bool = False) -> torch.Tensor:
    """W times a vector [cols], for W [rows, cols] with these values at the layer's pattern; it has a gradient.

    observed: whether a watch on the layer's dense gradient shall see what W gets of it.
    """
    product, compiles = layer.product, torch.compiler.is_compiling()
    bound = layer._active if compiles else layer._followed()
    operands, handle = bound.operands, layer._handle
    if compiles:
        operands, handle = layer._in_graph()
        operands = layer._kind.operands(*(tensor.clone() for tensor in operands))  # the layer itself follows once more
    how: dict[str, Any] = {"handle": handle, "token": layer._token if observed else None, "pattern": bound.pattern}
    if not isinstance(product, Conv2d):
        return multiply(layer._kind, product, vector[None], weight, None, operands, bound.rule, **how)[0]
    x, (row, column) = images_seen_once(product, vector.expand(1, product.groups, -1))
    y = multiply(layer._kind, Conv2d(*product), x, weight, None, operands, bound.rule, **how)
    return y[0, :, row, column]


@skips_proxies
def _divided_input(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """x / sigma in place of x: the product with W is the product of x with W / sigma."""
    x, *rest = args or (kwargs["x"],)
    return (x / layer.spectral_norm(layer), *rest), {}


@skips_proxies
def _scaled_output(layer: Any, args: tuple[Any, ...], y: Any) -> torch.Tensor:
    """The product without its bias is scaled row by row."""
    channels = (-1, *(1 for _ in layer.product.weight_shape[2:]))  # of an image they stand in front of its pixels
    scale = layer.weight_norm.scale(layer)
    scaled = y * scale.to(y.dtype).view(channels)
    return scaled if layer.bias is None else scaled + (layer.bias * (1 - scale)).to(y.dtype).view(channels)


class Norm(nn.Module):
    """A norm of a sparse layer, and its submodule. A subclass defines NAME, HOOK, `attach_` and `scale`.

    Attributes:
        HOOK: the layer's hook that normalises its product.
    """

    NAME: str
    HOOK: ClassVar[Callable[..., Any]]

    def attach_(self, layer: SparseLayer) -> None:
        """Registers the hook."""
        raise NotImplementedError

    def scale(self, layer: SparseLayer) -> torch.Tensor:
        """[rows]: what the hook multiplies the rows of the weight by."""
        raise NotImplementedError


class SpectralNorm(Norm):
    """sigma, the largest singular value of the weight as a matrix [rows, cols], by the power method (Miyato et al. 2018).

    Attributes:
        u, v: buffers [rows] and [cols], the singular vectors as estimated so far.
    """

    NAME = "spectral_norm"
    HOOK = staticmethod(_divided_input)

    u: torch.Tensor
    v: torch.Tensor

    def __init__(self, layer: SparseLayer, n_power_iterations: int, eps: float) -> None:
        super().__init__()
        self.n_power_iterations, self.eps = n_power_iterations, eps
        for name, size in (("u", layer.product.rows), ("v", layer.product.cols)):
            self.register_buffer(name, F.normalize(torch.randn_like(layer.weight[:0].new_empty(size)), dim=0, eps=eps))
        self.iterate_(layer, 15)

    @torch.no_grad()
    def iterate_(self, layer: SparseLayer, count: int) -> None:
        """So many steps of the power method."""
        matrix = Linear(layer.product.rows, layer.product.cols)
        back = layer._kind.products[Linear].grad_input
        for _ in range(count):
            F.normalize(product_with(layer, layer.weight, self.v), dim=0, eps=self.eps, out=self.u)
            dv = back(matrix, layer.weight, layer.chosen_by, layer._operands, self.u[None], self.v[None].shape)
            F.normalize(dv[0], dim=0, eps=self.eps, out=self.v)

    def sigma(self, layer: SparseLayer) -> torch.Tensor:
        """[], by the singular vectors as they are."""
        u, v = self.u.clone(), self.v.clone()  # the next forward pass writes them, before this one's backward pass
        return torch.dot(u, product_with(layer, layer.weight, v, observed=True)).clamp(min=self.eps)

    def forward(self, layer: SparseLayer) -> torch.Tensor:
        """sigma []; in training mode after further steps."""
        with torch.autocast(layer.weight.device.type, enabled=False):
            if self.training:
                self.iterate_(layer, self.n_power_iterations)
            return self.sigma(layer)

    def attach_(self, layer: SparseLayer) -> None:
        layer.register_forward_pre_hook(self.HOOK, with_kwargs=True)

    def scale(self, layer: SparseLayer) -> torch.Tensor:
        return self.sigma(layer).reciprocal().expand(layer.product.rows)


class WeightNorm(Norm):
    """The norm of each row of the weight is a parameter of its own (Salimans and Kingma 2016).

    Attributes:
        g: Parameter [rows], the norms. A row without entries begins with the mean of the others.
    """

    NAME = "weight_norm"
    HOOK = staticmethod(_scaled_output)

    def __init__(self, layer: SparseLayer) -> None:
        super().__init__()
        with torch.no_grad():
            norms = self.squares(layer).sqrt()
        used = norms > 0
        self.g = nn.Parameter(torch.where(used, norms, norms[used].mean() if used.any() else 1.0))

    def squares(self, layer: SparseLayer) -> torch.Tensor:
        """[rows], the squared norms of the rows."""
        with torch.autocast(layer.weight.device.type, enabled=False):
            return product_with(layer, layer.weight.square(), layer.weight.new_ones(layer.product.cols))

    def scale(self, layer: SparseLayer) -> torch.Tensor:
        squares = self.squares(layer)
        return self.g * torch.where(squares > 0, squares, 1.0).rsqrt()  # of a row of zeros, g

    def attach_(self, layer: SparseLayer) -> None:
        layer.register_forward_hook(self.HOOK)


def norm_of(layer: nn.Module) -> Norm | None:
    """The layer's norm, if it has one."""
    return next((child for child in layer.children() if isinstance(child, Norm)), None)
