"""What a layer takes from a state dict: its own entries, those of another capacity or layout, or a dense weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.ops import LAYOUTS, Layout, Pattern, Product, Rule, layout_named, slot_map
from sparse_ext.ops.pattern import taken

if TYPE_CHECKING:
    from .weight import SparseWeight

Entries = dict[str, torch.Tensor]


def fitted(state_dict: dict[str, Any], prefix: str, layer: SparseWeight) -> tuple[dict[str, Any], type[Layout]]:
    """The state dict with the layer's entries as it stores them, and the layout that it has to have; missing ones stay missing.

    A dense checkpoint keeps the largest magnitudes at the layer's nnz. One of another layout or capacity keeps its positions,
    if the layer can hold them. The layout is another one only where both weights hold every position: then products take of it
    what those of the checkpoint took.

    Raises:
        ValueError: it cannot be held, or is corrupt; the sentence names the entry.
    """
    given: Entries = {}
    for key, value in state_dict.items():
        name = key[len(prefix) :]
        if key.startswith(prefix) and "." not in name and isinstance(value, torch.Tensor):
            given[name] = value
    own, kind = _converted(given, prefix, layer)
    others = {key: value for key, value in state_dict.items() if key[len(prefix) :] not in given or not key.startswith(prefix)}
    return {**others, **{prefix + name: tensor for name, tensor in own.items()}}, kind


def _converted(given: Entries, prefix: str, layer: SparseWeight) -> tuple[Entries, type[Layout]]:
    """A layer's entries in the form of this one, and the layout of that form."""
    product, weight = layer.product, given.get("weight")
    if weight is not None and weight.dim() != 1:
        if weight.shape != product.weight_shape:
            raise ValueError(
                f"{prefix}weight: expected a dense weight of shape {product.weight_shape}, got {tuple(weight.shape)}"
            )
        return {**given, **_pruned(weight, layer)}, layer._kind
    kind = next((layout for layout in (layer._kind, *LAYOUTS.values()) if _describes(layout, given)), None)
    if kind is not None:
        given = kind.pattern.upgraded(prefix, product.rows, product.cols, given)
    if kind is None or not _describes(kind, given):
        everything = weight is not None and weight.numel() == product.rows * product.cols
        if not everything or not layer._kind.pattern.BUFFERS:
            return given, layer._kind  # with what is missing: the caller says so
        if layer._rule is not None:
            return given, layout_named("dense")
        if layer.weight.numel() == product.rows * product.cols:  # or a packed weight of that length, without its pattern
            return given, layer._kind
        return {**given, **_pruned(given["weight"], layer)}, layer._kind
    if "rule" in given and not layer._kind.pattern.BUFFERS:
        _check(given, prefix, product, kind)
        return given, kind
    return _held(given, prefix, layer, kind), layer._kind


def _describes(layout: type[Layout], given: Entries) -> bool:
    """Whether the entries hold a pattern of this layout."""
    buffers = layout.pattern.BUFFERS
    return bool(buffers) and all(name in given for name in buffers)


def _pruned(dense: torch.Tensor, layer: SparseWeight) -> Entries:
    """A dense weight as the layer stores it, pruned to its nnz."""
    matrix = dense.reshape(layer.product.rows, layer.product.cols)
    pattern, rule = layer._chosen(matrix, layer.nnz or layer._initial_nnz)
    if rule is not None:
        return _entries(matrix.reshape(-1), pattern, rule)
    values = layer._kind.pack(_wide(matrix), pattern)
    return _entries(values.to(dense.dtype), pattern, None)


def _check(given: Entries, prefix: str, product: Product, kind: type[Layout]) -> tuple[Pattern, Rule | None]:
    """The pattern and the rule that the entries hold; ValueError if they are none, or do not fit the weight."""
    rule = Rule.decoded(prefix, given["rule"], kind.pattern.RULES) if "rule" in given else None
    device = given[kind.pattern.BUFFERS[0]].device
    pattern = kind.pattern.of_buffers(product.rows, product.cols, given, device)
    pattern.check(prefix, rule)
    length = pattern.capacity if rule is None else product.rows * product.cols
    if "weight" in given and given["weight"].shape != (length,):
        raise ValueError(f"{prefix}weight: expected {length} values (as the pattern says), got {tuple(given['weight'].shape)}")
    return pattern, rule


def _held(given: Entries, prefix: str, layer: SparseWeight, kind: type[Layout]) -> Entries:
    """Entries with a pattern of this layout, as the layer stores them."""
    pattern, rule = _check(given, prefix, layer.product, kind)
    weight = given.get("weight")
    same_kind = kind.pattern is layer._kind.pattern
    if same_kind and (rule is None) == (layer._rule is None) and pattern.capacity == layer.pattern.capacity:
        return given
    rest = {name: tensor for name, tensor in given.items() if name not in (*kind.pattern.BUFFERS, "rule", "weight")}
    if weight is None:
        if not same_kind or (rule is None) != (layer._rule is None):
            return rest
        return {**rest, **_entries(None, _resized(pattern, prefix, layer), rule)}
    if layer._rule is not None:
        return {**rest, **_as_dense_weight(weight, pattern, rule, kind, layer)}
    values, at = weight, pattern.positions()
    if rule is not None:  # what products take of it
        values = kind.matrix(_wide(weight), pattern, rule).to(weight.dtype).view(-1)
        at = torch.arange(values.numel(), device=values.device)
    if same_kind and rule is None:
        fresh = _resized(pattern, prefix, layer)
    else:
        try:
            fresh = layer._kind.pattern.from_mask(pattern.mask(), layer.pattern.capacity)
        except ValueError as error:
            raise ValueError(f"{prefix}weight: {error}") from error
    return {**rest, **_entries(taken(values, slot_map(at, fresh.positions())), fresh, None)}


def _as_dense_weight(
    weight: torch.Tensor, pattern: Pattern, rule: Rule | None, kind: type[Layout], layer: SparseWeight
) -> Entries:
    """For a layer whose weight is dense: zeros where nothing was stored."""
    if rule is None:
        weight = kind.unpack(_wide(weight), pattern).to(weight.dtype).view(-1)
    if kind.pattern is layer._kind.pattern and pattern.capacity == layer.pattern.capacity:
        return _entries(weight, pattern, rule or Rule(pattern.RULES[0]))
    fresh, own = layer._chosen(weight.view(pattern.rows, pattern.cols), layer.nnz or layer._initial_nnz)
    return _entries(weight, fresh, own)


def _resized(pattern: Pattern, prefix: str, layer: SparseWeight) -> Pattern:
    try:
        return pattern.resized(layer.pattern.capacity)
    except ValueError as error:
        raise ValueError(f"{prefix}weight: {error}") from error


def _entries(weight: torch.Tensor | None, pattern: Pattern, rule: Rule | None) -> Entries:
    """As a state dict holds them."""
    entries = dict(pattern.buffers)
    if weight is not None:
        entries["weight"] = weight
    if rule is not None:
        entries["rule"] = rule.encoded(next(iter(entries.values())).device)
    return entries


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In a dtype that every device's kernels have and that holds every value of the tensor's."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
