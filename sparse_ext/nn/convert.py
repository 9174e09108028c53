"""`sparsify_` and `densify_`: a whole model's linear and convolutional layers, in place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import layout_named

from .arguments import check_sparsity
from .candidates import WHY_DENSE, Candidates, already_sparse, candidates
from .distributions import densities
from .layer import SparseLayer
from .overview import much_stays_dense, weights_of
from .replacement import Replacement
from .table import REPLACEMENTS, nearest, replacement_of
from .trained import sign_of_training
from .wrapped import check_unwrapped

INITS = ("variance", "masked", "magnitude")
# Why a layer stays dense though it could be replaced.
EXCLUDED, WHOLE = "excluded", "its share of the sparsity leaves it all weights"


def layer_densities(
    model: nn.Module, sparsity: float, distribution: str = "erk", exclude: Iterable[str] = (), layout: str = "auto"
) -> dict[str, float]:
    """The density that `sparsify_` would give each layer, without converting anything.

    Args:
        model: a dense model.
        sparsity: share of zeros over all layers together, in [0, 1).
        distribution: how the sparsity is divided among the layers: "uniform" (the same in each), "er" (Erdos-Renyi, Mocanu et
            al. 2018) or "erk" (Erdos-Renyi-Kernel, Evci et al. 2020). The last two keep small layers denser.
        exclude: as of `sparsify_`.
        layout: as of `sparsify_`. Some layers may stay dense because of it, which changes the shares of the others.

    Returns:
        {layer name: density in [0, 1]}, for the layers that `sparsify_` can replace. A layer that would have no weight at all
        gets as many as it has rows.

    Raises:
        TypeError, ValueError: sparsity is out of range, the distribution or the layout is unknown, `exclude` matches nothing,
            or there is no layer to replace.
    """
    found = candidates(model, exclude, layout)
    shares, told = _shares(found.layers, sparsity, distribution)
    for sentence in (*_said_of(model, found, sparsity), *told):
        warnings.warn(sentence, stacklevel=2)
    return shares


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
    """Replaces a model's linear and convolutional layers by sparse ones, in place: `nn.Linear`, `nn.Conv1d` and `nn.Conv2d`,
    Hugging Face's `Conv1D`, PyTorch Geometric's `Linear`, and what `register_layer` adds.

    Build the optimizer afterwards: the layers have new parameters. A layer that cannot be replaced stays dense, with a warning:
    one inside `nn.MultiheadAttention`, one whose weight another module reads, a tied or parametrized one, one with hooks, or
    one of a subclass; and what the layout cannot store, or had better not. `summary` lists all of them.

    Args:
        model: contains the layers; a bare layer is refused.
        sparsity: share of zeros over all layers together, in [0, 1). None: the layout's default, 0.9 for "csr".
        distribution: how the sparsity is divided among the layers, see `layer_densities`. A layer that gets density 1 stays
            dense. Layouts with a fixed sparsity ignore it.
        layout: see `SparseLinear`.
        method: the method that will train the model, or {name pattern: method} as a `Sparsifier` takes it, if known: layers get
            the capacity, or the dense weight, that it needs, and the density with which it begins. `sparsity` is then what it
            ends with.
        init: "variance": new random values, scaled for the sparse fan-in, so that outputs are as large as with the present
            weight: a layer that begins with zeros still does. "masked": the model's own values at a random mask. "magnitude":
            the largest of them, for a model that was trained. With the last two a dense weight takes all values. A warning says
            where the first two would lose what a model has learned: if it has gradients, batches in a BatchNorm, weights
            from `from_pretrained`, or normalizations whose weights differ.
        exclude: names, or glob patterns of names, of layers or of modules that contain them, to leave alone.

    Returns:
        The model.

    Raises:
        TypeError, ValueError: an argument is wrong, a name in `exclude` is no module's, a weight is not finite, or there is no
            layer to replace, or the model is wrapped for distributed training; it is unchanged.

    Example:
        model = sparsify_(model, 0.9, exclude=["head"])
        optimizer = torch.optim.AdamW(model.parameters())
    """
    check_unwrapped("sparsify_", model)
    kind = layout_named(layout).pattern
    sparsity = kind.SPARSITY if sparsity is None else check_sparsity(sparsity)
    _check_arguments(model, init)
    found = candidates(model, exclude, layout)
    told = _said_of(model, found, sparsity)
    shares, said_of_shares = _shares(found.layers, sparsity, distribution if kind.VARIABLE else "uniform")
    chosen = {name: layer for name, layer in found.layers.items() if shares[name] < 1.0 or not kind.VARIABLE}
    _remember(model, found, chosen)
    methods = {name: _method_of(name, method) for name in chosen}
    told += [*said_of_shares, *_said_of_values(model, chosen, init, methods)]
    if sparsity:
        told += much_stays_dense(weights_of(model, {}), chosen, (EXCLUDED, WHOLE))
    sparse = {name: _sparse_twin(name, layer, shares[name], layout, methods[name], init) for name, layer in chosen.items()}
    for sentence in told:
        warnings.warn(sentence, stacklevel=2)
    for name, layer in sparse.items():
        model.set_submodule(name, layer)
    use_slow_paths(model)
    return model


def _check_arguments(model: nn.Module, init: str) -> None:
    """ValueError if there is no such initialisation, or the model is itself a layer."""
    if init not in INITS:
        raise ValueError(f"expected init to be one of {', '.join(map(repr, INITS))}, got {init!r}")
    if (kind := replacement_of(model)) is not None:
        raise ValueError(
            f"sparsify_: expected a model that contains layers, got a bare {type(model).__name__}; "
            f"use {kind.__name__}.from_dense"
        )


def _remember(model: nn.Module, found: Candidates, chosen: dict[str, Any]) -> None:
    """Keeps for `summary` why modules stay dense."""
    WHY_DENSE.update(dict.fromkeys(found.excluded, EXCLUDED))
    WHY_DENSE.update({model.get_submodule(name): why for name, why in found.obstacles.items()})
    WHY_DENSE.update({layer: WHOLE for name, layer in found.layers.items() if name not in chosen})


def _shares(layers: dict[str, Any], sparsity: float, distribution: str) -> tuple[dict[str, float], list[str]]:
    """{name: density}, and a sentence for each layer that gets more than its share: as many weights as rows instead of none."""
    shapes = {name: replacement_of(layer).product_of(layer).weight_shape for name, layer in layers.items()}  # type: ignore[union-attr]
    shares, told = densities(shapes, sparsity, distribution), []
    for name, (rows, *rest) in shapes.items():
        cols = math.prod(rest)
        if rows * cols and not round(shares[name] * rows * cols):
            share = f"{shares[name]:.2g} of {rows * cols}"
            told.append(f"sparsify_: {name!r} would have no weights, {share}; it gets one for each output, {rows} in all")
            shares[name] = 1.0 / cols
    if sparsity and shares and min(shares.values()) == 1.0:
        told.append(f"sparsify_: no layer becomes sparse: a sparsity of {sparsity:g} leaves them all their weights")
    return shares, told


def _said_of(model: nn.Module, found: Candidates, sparsity: float) -> list[str]:
    """A sentence for each layer that stays dense, and for those that are sparse already; ValueError if there is no layer."""
    sparse = already_sparse(model)
    if sparsity and not (found.layers or found.obstacles or any(map(nearest, found.excluded))):
        if sparse:
            raise ValueError(
                f"sparsify_: expected a dense model, got layers that are sparse already: {sparse}; densify_ it first"
            )
        kinds = ", ".join(kind if isinstance(kind, str) else kind.__name__ for kind in REPLACEMENTS)
        raise ValueError(f"sparsify_: expected a model with layers to replace ({kinds}), got none; {_instead(model)}")
    told = [f"sparsify_: {name!r} stays dense: {why}" for name, why in found.obstacles.items()]
    if sparse:
        told.append(
            f"sparsify_: sparse already, and kept as they are: {sparse}; the sparsity counts for the dense layers alone; "
            "densify_ the model first to convert all of it anew"
        )
    return told


def _instead(model: nn.Module) -> str:
    """What the model has instead of layers that can be replaced."""
    kinds = sorted({row.kind for row in weights_of(model, {}).weights if row.multiplied})
    if not kinds:
        return "it has no matrix weights"
    return f"its matrix weights are those of {', '.join(kinds)}; register_layer tells how to replace one"


def _method_of(name: str, method: Any) -> Any:
    """The layer's method, of several the one that changes its pattern; None: it is not known."""
    if isinstance(method, Mapping):
        method = next((one for pattern, one in method.items() if fnmatchcase(name, pattern)), None)
    if method is not None and (isinstance(method, type) or not hasattr(method, "parts")):
        raise TypeError(f"sparsify_: expected a method such as RigL(), or {{name pattern: method}}, got {method!r}")
    return None if method is None else method.parts[0]


def _said_of_values(model: nn.Module, chosen: dict[str, Any], init: str, methods: dict[str, Any]) -> list[str]:
    """A sentence if the conversion would lose what the layers have learned."""
    dense_weights = {name for name, method in methods.items() if method is not None and method.dense_weight}
    chosen = {name: layer for name, layer in chosen.items() if init != "masked" or name not in dense_weights}
    if init == "magnitude" or not (chosen and (sign := sign_of_training(model, chosen.values()))):
        return []
    fate = "replaces them by new random values" if init == "variance" else "keeps a random part of them"
    return [
        f"sparsify_: the weights seem trained or loaded ({sign}), and init={init!r} {fate}; init='magnitude' keeps the largest"
    ]


@torch.no_grad()
def _sparse_twin(name: str, layer: Any, density: float, layout: str, method: Any, init: str) -> Replacement:
    """The layer that takes this one's place; ValueError if the values of its weight are not finite."""
    kind: Any = replacement_of(layer)
    product = kind.product_of(layer)
    first, capacity = _densities_of(method, density, product.rows * product.cols)
    spread = None if method is None else method.first_spread
    if capacity is not None and method.spare_per_row and layout_named(layout).pattern.VARIABLE:
        spare = method.spare_per_row * product.rows + 1  # one more, whichever way this is rounded
        capacity = min(1.0, capacity + spare / max(1, product.rows * product.cols))
    twin: Replacement = kind.outline(layer, layer.weight, sparsity=1.0 - first, layout=layout, capacity=capacity)
    if method is not None and method.changes_density:
        twin.aim_at_(density)
    if method is not None and method.dense_weight:
        twin.store_dense_()
    if layer.weight.is_meta:
        return twin
    mean_square = _mean_square(name, layer.weight)
    twin.allocate_(layer.weight.device)
    if init == "variance":
        twin.reset_weight_(mean_square, spread)
    else:
        at_random = init == "masked" and twin.chosen_by is None
        mask = twin.random_pattern(spread).mask().view(twin.product.weight_shape) if at_random else None
        twin.set_matrix_(kind.as_matrix(layer.weight), mask)
    twin.copy_rest_(layer, layer.bias)
    return twin


def _densities_of(method: Any, density: float, positions: int) -> tuple[float, float | None]:
    """The density with which a method begins a layer that is made for this one, and the capacity that it needs, if known."""
    if method is None or method.dense_weight:
        return density, None
    made = round(density * positions) / max(1, positions)  # of the weights' number alone a Sparsifier computes them again
    first, most = method.initial_density(made), method.max_density(made)
    first = first if first > made else density
    return first, max(first, most) if most > made else first


def _mean_square(name: str, weight: torch.Tensor) -> float:
    """Of a dense weight's values, in float32 at least; ValueError if they are not finite."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    square = float(torch.linalg.vector_norm(weight, dtype=wide)) ** 2 / max(1, weight.numel())
    if not math.isfinite(square):
        raise ValueError(f"sparsify_: expected {name}.weight to be finite, got Inf or NaN; initialise or load the model first")
    return square


def densify_(model: nn.Module) -> nn.Module:
    """Replaces the sparse layers of a model by dense ones that compute the same function, in place.

    Do this before a quantizer, a pruner or an exporter that looks for `nn.Linear`: it would leave sparse layers as they are.

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


def use_slow_paths(model: nn.Module) -> None:
    """Switches off fused inference code that would read a sparse weight as a dense matrix."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and sparse_layers(module):
            module.activation_relu_or_gelu = 0  # the layer takes its fused path only if this is not 0
        elif isinstance(module, nn.TransformerEncoder) and sparse_layers(module):
            module.use_nested_tensor = False  # only the fused path can read nested tensors
