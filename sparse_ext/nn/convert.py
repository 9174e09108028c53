"""`sparsify_` and `densify_`: a whole model's `nn.Linear` layers, in place."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparse_ext.ops import layout_named

from .distributions import densities
from .layer import SparseLayer, check_sparsity
from .linear import SparseLinear, keep_frozen

# Dense class -> sparse class: a row for every layer that can be replaced.
REPLACEMENTS: dict[type[nn.Module], type[SparseLinear]] = {nn.Linear: SparseLinear}
INITS = ("variance", "masked")


def _obstacles(model: nn.Module) -> dict[str, str]:
    """{name: why not} for the layers that look replaceable but are not."""
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
        if not isinstance(module, nn.Linear):
            continue
        if name in attention:
            reasons[name] = attention[name]
        elif parametrize.is_parametrized(module):
            reasons[name] = "its weight is parametrized"
        elif "weight" not in module._parameters:
            reasons[name] = "its weight is computed by a hook"
        elif uses[id(module.weight)] > 1:
            reasons[name] = "its weight is tied to another module's"
        elif names[id(module)] > 1:
            reasons[name] = "the model uses it under several names"
        elif type(module) not in REPLACEMENTS:
            reasons[name] = f"{type(module).__name__} is a subclass with behaviour of its own"
        elif module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            reasons[name] = "its hooks would be lost"
    return reasons


def _candidates(model: nn.Module, exclude: Iterable[str]) -> dict[str, nn.Linear]:
    """The layers that `sparsify_` replaces, by name; a warning names each that it cannot."""
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    reasons = _obstacles(model)
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or any(fnmatchcase(name, p) for p in patterns):
            continue
        if name in reasons:
            warnings.warn(f"sparsify_: {name!r} stays dense: {reasons[name]}", stacklevel=3)
        else:
            found[name] = module
    return found


def layer_densities(
    model: nn.Module, sparsity: float, distribution: str = "erk", exclude: Iterable[str] = ()
) -> dict[str, float]:
    """{name: density} that `sparsify_` would give the layers it can replace, before converting.

    Args:
        distribution: "uniform", "er" (Mocanu et al. 2018) or "erk" (Evci et al. 2020).
        exclude: names, or glob patterns of names, of layers left alone and out of the count.
    """
    shapes = {name: tuple(layer.weight.shape) for name, layer in _candidates(model, exclude).items()}
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
    """Replaces the model's `nn.Linear` layers by sparse ones, in place, and returns the model.

    Args:
        sparsity: share of zeros over all replaced layers, in [0, 1); None: the layout's default, 0.9 for "csr".
        distribution: how it is shared among them; see `layer_densities`. A layer whose share is 1 stays `nn.Linear`. A layout
            with a fixed sparsity has equal shares.
        layout: the layers' layout; see `SparseLinear`.
        method: the method that will train the model: layers get the capacity, or the dense weight, that it needs.
        init: "variance": fresh values for the sparse fan-in; "masked": the dense values at the (random) mask, of a dense weight
            all of them.
        exclude: names, or glob patterns of names, of layers to leave alone.

    A layer that cannot be replaced (inside `nn.MultiheadAttention`, tied, parametrized, a subclass) stays dense, with a
    warning. Nothing is changed if an argument is wrong (ValueError).
    """
    kind = layout_named(layout).pattern
    sparsity = kind.SPARSITY if sparsity is None else check_sparsity(sparsity)
    if init not in INITS:
        raise ValueError(f"expected init to be one of {', '.join(map(repr, INITS))}, got {init!r}")
    if type(model) in REPLACEMENTS:
        raise ValueError(
            f"sparsify_: expected a model that contains layers, got a bare {type(model).__name__}; "
            f"use {REPLACEMENTS[type(model)].__name__}.from_dense"
        )
    layers = _candidates(model, exclude)
    obstacles = {name: why for name, layer in layers.items() if (why := kind.obstacle(*layer.weight.shape))}
    for name, why in obstacles.items():
        warnings.warn(f"sparsify_: {name!r} stays dense: {why}", stacklevel=2)
        del layers[name]
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
def _sparse_twin(layer: nn.Linear, density: float, layout: str, method: Any, init: str) -> SparseLinear:
    capacity = None if method is None else max(density, method.max_density(density))
    if method is not None and method.dense_weight:
        capacity = None
    dense = layer.weight
    twin = REPLACEMENTS[type(layer)](
        layer.in_features, layer.out_features, layer.bias is not None,
        sparsity=1.0 - density, layout=layout, capacity=capacity, device=dense.device, dtype=dense.dtype,
    )  # fmt: skip
    if method is not None and method.dense_weight:
        twin.store_dense_()
        twin.reset_parameters()
    if not dense.is_meta:
        if init == "masked":
            twin.set_matrix_(dense, twin.mask() if twin.chosen_by is None else None)
        if twin.bias is not None:
            twin.bias.copy_(layer.bias)
    keep_frozen(twin, layer)
    return twin.train(layer.training)


def densify_(model: nn.Module) -> nn.Module:
    """The way back: every sparse layer becomes its dense twin with the same function, in place."""
    if isinstance(model, SparseLinear):
        raise ValueError("densify_: expected a model that contains layers, got a bare layer; use to_dense")
    twins: dict[SparseLinear, nn.Linear] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):  # a layer with two names gets one twin
        if isinstance(layer, SparseLinear):
            if layer not in twins:
                twins[layer] = layer.to_dense()
            model.set_submodule(name, twins[layer])
    return model


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """{name: layer} of the model's sparse layers."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLayer)}


def _use_slow_paths(model: nn.Module) -> None:
    """Switches off fused inference code that would read a sparse weight as a dense matrix."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and sparse_layers(module):
            module.activation_relu_or_gelu = 0  # the layer's own test for its fused path
        elif isinstance(module, nn.TransformerEncoder) and sparse_layers(module):
            module.use_nested_tensor = False  # padded batches would become nested tensors, for that path only
