"""`sparsify_` and `densify_`: a whole model's linear and convolutional layers, in place."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from sparse_ext.ops import layout_named

from .arguments import check_sparsity
from .conv import SparseConv1d, SparseConv2d
from .distributions import densities
from .layer import SparseLayer
from .linear import SparseLinear
from .replacement import Replacement
from .wrapped import check_unwrapped

# Dense class -> the sparse class that replaces it.
_KINDS: tuple[type[Replacement], ...] = (SparseLinear, SparseConv1d, SparseConv2d)
REPLACEMENTS: dict[type[nn.Module], type[Replacement]] = {kind.DENSE: kind for kind in _KINDS}
INITS = ("variance", "masked")


def _is_replaceable(module: nn.Module) -> bool:
    """Whether it is a layer of a kind that can be replaced."""
    return isinstance(module, tuple(REPLACEMENTS))


def _obstacles(model: nn.Module) -> dict[str, str]:
    """{name: reason} of the layers that cannot be replaced, though others of their kind can."""
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    attention = {
        name: "nn.MultiheadAttention reads its weight as a dense matrix"
        for parent, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for name, _ in module.named_modules(prefix=parent)
    }
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        if not _is_replaceable(module):
            continue
        if name in attention:
            reasons[name] = attention[name]
        elif parametrize.is_parametrized(module):
            reasons[name] = "its weight is parametrized"
        elif "weight" not in module._parameters:
            reasons[name] = "its weight is computed by a hook"
        elif is_lazy(module.weight):
            reasons[name] = "it has no weight before its first batch: run one through the model"
        elif module.weight.is_complex():
            reasons[name] = f"there are no kernels for {module.weight.dtype}"
        elif uses[id(module.weight)] > 1:
            reasons[name] = "its weight is tied to another module's"
        elif names[id(module)] > 1:
            reasons[name] = "the model uses it under several names"
        elif type(module) not in REPLACEMENTS:
            reasons[name] = f"{type(module).__name__} is a subclass with behaviour of its own"
        elif module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            reasons[name] = "its hooks would be lost"
    return reasons


def _candidates(model: nn.Module, exclude: Iterable[str], layout: str) -> dict[str, Any]:
    """The layers that `sparsify_` replaces by some of this layout, by name; warns of each that it cannot."""
    kind, patterns = layout_named(layout), [exclude] if isinstance(exclude, str) else list(exclude)
    reasons = _obstacles(model)
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not _is_replaceable(module) or any(fnmatchcase(name, p) for p in patterns):
            continue
        if why := reasons.get(name) or kind.obstacle(REPLACEMENTS[type(module)].product_of(module)):
            warnings.warn(f"sparsify_: {name!r} stays dense: {why}", stacklevel=3)
        else:
            found[name] = module
    return found


def layer_densities(
    model: nn.Module, sparsity: float, distribution: str = "erk", exclude: Iterable[str] = (), layout: str = "auto"
) -> dict[str, float]:
    """The density that `sparsify_` would give each layer, without converting anything.

    Args:
        model: a dense model.
        sparsity: share of zeros over all layers together, in [0, 1).
        distribution: how the sparsity is divided among the layers: "uniform" (the same in each), "er" (Erdos-Renyi, Mocanu et
            al. 2018) or "erk" (Erdos-Renyi-Kernel, Evci et al. 2020). The last two keep small layers denser.
        exclude: names, or glob patterns of names, of layers to leave out.
        layout: as of `sparsify_`. Some layers may stay dense because of it, which changes the shares of the others.

    Returns:
        {layer name: density in [0, 1]}, for the layers that `sparsify_` can replace.

    Raises:
        ValueError: sparsity is out of range, or the distribution or the layout is unknown.
    """
    shapes = {name: tuple(layer.weight.shape) for name, layer in _candidates(model, exclude, layout).items()}
    return densities(shapes, sparsity, distribution)


def sparsify_(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    distribution: str = "erk",
    layout: str = "auto",
    method: Any = None,
    init: str = "variance",
    exclude: Iterable[str] = (),
) -> nn.Module:
    """Replaces the `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` layers of a model by sparse ones, in place.

    Build the optimizer afterwards: the layers have new parameters. A layer that cannot be replaced stays dense, with a warning:
    one inside `nn.MultiheadAttention`, a tied or parametrized one, one with hooks, or one of a subclass; and what the layout
    cannot store, or had better not.

    Args:
        model: contains the layers; a bare layer is refused.
        sparsity: share of zeros over all layers together, in [0, 1). None: the layout's default, 0.9 for "csr".
        distribution: how the sparsity is divided among the layers, see `layer_densities`. A layer that gets density 1 stays
            dense. Layouts with a fixed sparsity ignore it.
        layout: see `SparseLinear`.
        method: the method that will train the model, if known: layers get the capacity, or the dense weight, that it needs.
        init: "variance": new random values, scaled for the sparse fan-in. "masked": the model's own values at a random mask; a
            dense weight takes all of them.
        exclude: names, or glob patterns of names, of layers to leave alone.

    Returns:
        The model.

    Raises:
        ValueError: an argument is wrong, or the model is wrapped for distributed training; it is unchanged.

    Example:
        model = sparsify_(model, 0.9, exclude=["head"])
        optimizer = torch.optim.AdamW(model.parameters())
    """
    check_unwrapped("sparsify_", model)
    kind = layout_named(layout).pattern
    sparsity = kind.SPARSITY if sparsity is None else check_sparsity(sparsity)
    if init not in INITS:
        raise ValueError(f"expected init to be one of {', '.join(map(repr, INITS))}, got {init!r}")
    if type(model) in REPLACEMENTS:
        raise ValueError(
            f"sparsify_: expected a model that contains layers, got a bare {type(model).__name__}; "
            f"use {REPLACEMENTS[type(model)].__name__}.from_dense"
        )
    layers = _candidates(model, exclude, layout)
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    shares = densities(shapes, sparsity, distribution if kind.VARIABLE else "uniform")
    sparse = {
        name: _sparse_twin(layer, shares[name], layout, method, init)
        for name, layer in layers.items()
        if shares[name] < 1.0 or not kind.VARIABLE
    }
    for name, layer in sparse.items():
        model.set_submodule(name, layer)
    _use_slow_paths(model)
    return model


@torch.no_grad()
def _sparse_twin(layer: Any, density: float, layout: str, method: Any, init: str) -> Replacement:
    capacity = None if method is None else max(density, method.max_density(density))
    if method is not None and method.dense_weight:
        capacity = None
    dense = layer.weight
    twin = REPLACEMENTS[type(layer)].outline(layer, sparsity=1.0 - density, layout=layout, capacity=capacity)
    if method is not None and method.dense_weight:
        twin.store_dense_()
    if not dense.is_meta:
        twin.allocate_(dense.device)
        if init == "masked":
            mask = twin.random_pattern().mask().view(dense.shape) if twin.chosen_by is None else None
            twin.set_matrix_(dense, mask)
        else:
            twin.reset_parameters()
        if twin.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


def densify_(model: nn.Module) -> nn.Module:
    """Replaces the sparse layers of a model by dense ones that compute the same function, in place.

    Args:
        model: contains the layers; for a bare sparse layer use `to_dense`.

    Returns:
        The model.

    Raises:
        ValueError: the model is itself a sparse layer, or is wrapped for distributed training.
    """
    if isinstance(model, Replacement):
        raise ValueError("densify_: expected a model that contains layers, got a bare layer; use to_dense")
    check_unwrapped("densify_", model)
    twins: dict[Replacement, nn.Module] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):  # a layer with two names gets one twin
        if isinstance(layer, Replacement):
            if layer not in twins:
                twins[layer] = layer.to_dense()
            model.set_submodule(name, twins[layer])
    return model


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """{name: layer}, all sparse layers of the model, named as `model.named_modules()` names them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLayer)}


def _use_slow_paths(model: nn.Module) -> None:
    """Switches off fused inference code that would read a sparse weight as a dense matrix."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and sparse_layers(module):
            module.activation_relu_or_gelu = 0  # the layer takes its fused path only if this is not 0
        elif isinstance(module, nn.TransformerEncoder) and sparse_layers(module):
            module.use_nested_tensor = False  # only the fused path can read nested tensors
