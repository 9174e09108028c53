"""Conversion of checkpoint entries for a layer: from another capacity or layout, or from a dense layer's weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.ops import LAYOUTS, Layout, Pattern, Product, Rule, layout_named, slot_map
from sparse_ext.ops.pattern import taken

from .foreign import is_computed

if TYPE_CHECKING:
    from .weight import SparseWeight

Entries = dict[str, torch.Tensor]


def check_version(prefix: str, metadata: dict[str, Any], newest: int) -> None:
    """ValueError if a layer's entries are of a version after `newest`. File formats that keep tensors alone have no version."""
    if (version := metadata.get("version") or 1) > newest:
        raise ValueError(
            f"{prefix}weight: expected entries of version {newest} or older, got version {version}: a newer sparse_ext wrote "
            "them; upgrade sparse_ext to load them"
        )


def fitted(state_dict: dict[str, Any], prefix: str, layer: SparseWeight) -> tuple[dict[str, Any], type[Layout]]:
    """Converts a layer's entries in a state dict to the form that the layer stores.

    A dense layer's weight is pruned to the layer's nnz by magnitude. Entries of another layout or capacity keep their
    positions, if the layer can hold them. The layer has to change its layout only if its own weight and the checkpoint's are
    both dense; products then use the same part as in the checkpoint.

    Args:
        state_dict: of the whole model.
        prefix: of the layer's entries.
        layer: the layer that will load them.

    Returns:
        The state dict with converted entries (missing ones stay missing), and the layout that the layer must have.

    Raises:
        ValueError: an entry is corrupt, or the layer cannot hold it; the message names the entry.
    """
    given: Entries = {}
    for key, value in state_dict.items():
        name = key[len(prefix) :]
        if key.startswith(prefix) and "." not in name and _is_readable(key, name, value, layer):
            given[name] = value
    own, kind = _converted(given, prefix, layer)
    others = {key: value for key, value in state_dict.items() if key[len(prefix) :] not in given or not key.startswith(prefix)}
    return {**others, **{prefix + name: tensor for name, tensor in own.items()}}, kind


def _is_readable(key: str, name: str, value: Any, layer: SparseWeight) -> bool:
    """Whether it is a tensor; ValueError if it has the name of one of the layer's, and is none that can be copied into it."""
    if name not in ("weight", "bias", "rule", *layer._kind.pattern.BUFFERS):
        return isinstance(value, torch.Tensor)
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{key}: expected a tensor, got {type(value).__name__}")
    if value.is_meta or value.layout is not torch.strided:
        raise ValueError(f"{key}: expected a tensor with values of its own, got one of {value.layout} on {value.device}")
    if name in ("weight", "bias") and not value.is_floating_point():
        raise ValueError(f"{key}: expected a floating-point dtype, got {value.dtype}")
    return True


def storage_of(state_dict: dict[str, Any], prefix: str, layer: SparseWeight) -> tuple[str, Pattern] | None:
    """How entries are stored, if the layer shall store them so, too: the layout's name, and their pattern; None: it shall not.

    A layer that changes its density may change its storage in the course of a run. So that a run resumes bit for bit, and the
    optimizer's state that belongs to the entries has the weight's length, the layer then takes over the storage they were
    saved in: of those that the layout for which it was asked may choose.

    Raises:
        ValueError: an entry is corrupt.
    """
    names = (layer.asked, *layout_named(layer.asked).STORAGES)
    sharded = hasattr(layer.weight, "device_mesh")
    if layer._target_nnz is None or len(names) == 1 or layer._rule is not None or sharded or is_computed(layer):
        return None
    given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    given = {name: one for name, one in given.items() if "." not in name and _is_readable(prefix + name, name, one, layer)}
    kind = next((layout_named(name) for name in names if _describes(layout_named(name), given)), None)
    weight, bias, rows = given.get("weight"), given.get("bias"), layer.product.rows
    refused = layer.bias is not None and bias is not None and bias.shape != (rows,)
    if kind is None or weight is None or weight.dim() != 1 or "rule" in given or refused:
        return None
    given = kind.pattern.upgraded(prefix, rows, layer.product.cols, given)
    pattern, _ = _check(given, prefix, layer.product, kind)
    if layer.keeps_length and pattern.capacity != layer.capacity:
        try:
            pattern = pattern.resized(layer.capacity)
        except ValueError:
            return None
        if pattern.capacity != layer.capacity:
            return None
    same = kind.pattern is layer._kind.pattern and pattern.capacity == layer.capacity
    return None if same else (kind.name, pattern)


def whole(entries: Entries, prefix: str, layer: SparseWeight, kind: type[Layout]) -> Entries:
    """The entries, which make a valid layer of this layout with the layer's own where one is missing; ValueError if not.

    Slots that store no position are 0: a product may multiply them by the zeros that pad a row, which is NaN for Inf.
    """
    given = {key[len(prefix) :]: value for key, value in entries.items() if key.startswith(prefix)}
    rows, cols = layer.product.rows, layer.product.cols
    if kind is layer._kind:
        missing = {name: tensor for name, tensor in layer._stored().items() if name not in given}
        if missing and len(missing) < len(layer._names) and not layer.weight.is_meta:
            # `fitted` has checked a pattern that is all there.
            _check({"weight": layer.weight, **missing, **given}, prefix, layer.product, kind)
        length = layer.weight.numel()
    else:
        length = rows * cols
    for name, size in (("weight", length), ("bias", rows)):
        if name in given and getattr(layer, name) is not None and given[name].shape != (size,):
            raise ValueError(f"{prefix}{name}: expected shape ({size},), got {tuple(given[name].shape)}")
    if kind is layer._kind and layer._rule is None:
        _check_together(given, prefix, layer)
    if kind is layer._kind and layer._names and layer._rule is None and "weight" in given:
        stored = {**layer._stored(), **{name: given[name] for name in layer._names if name in given}}
        pattern = kind.pattern.of_buffers(rows, cols, stored, given["weight"].device)
        return {**entries, prefix + "weight": _cleared(given["weight"], pattern)}
    return entries


def _check_together(given: Entries, prefix: str, layer: SparseWeight) -> None:
    """ValueError if packed values, or a part of their pattern, would be put to what the layer has of the rest."""
    if is_computed(layer):
        return  # from entries of other names
    own = {"weight": layer.weight, **layer._stored()}
    missing = [name for name in own if name not in given]
    others = [name for name in own if name in given and (name == "weight" or not _is_same(given[name], own[name]))]
    if missing and others:
        raise ValueError(
            f"{prefix}weight: expected packed values together with their pattern ({', '.join(own)}), which says where they "
            f"belong, got {', '.join(others)} without {', '.join(missing)}; save state_dict() with its buffers, or add the "
            "layer's own if they are these values: {**model.state_dict(), **entries}"
        )


def _is_same(given: torch.Tensor, own: torch.Tensor) -> bool:
    return not own.is_meta and given.shape == own.shape and torch.equal(given.to(own.device), own)


def _cleared(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The weight itself if its unused slots are 0, as in every layer that was trained; otherwise a copy in which they are."""
    at = pattern.positions()
    if at.is_meta:
        return weight
    unused = (at < 0).to(weight.device)
    return weight.masked_fill(unused, 0) if weight[unused].any() else weight


def _converted(given: Entries, prefix: str, layer: SparseWeight) -> tuple[Entries, type[Layout]]:
    """The entries in the form that the layer stores, and the layout of that form."""
    product, weight = layer.product, given.get("weight")
    if weight is not None and weight.dim() != 1:
        if weight.shape != product.weight_shape:
            raise ValueError(
                f"{prefix}weight: expected a dense weight of shape {product.weight_shape}, got {tuple(weight.shape)}"
            )
        return {**given, **_pruned(weight, prefix, layer)}, layer._kind
    kind = next((layout for layout in (layer._kind, *LAYOUTS.values()) if _describes(layout, given)), None)
    if kind is not None:
        given = kind.pattern.upgraded(prefix, product.rows, product.cols, given)
    if kind is None or not _describes(kind, given):
        everything = weight is not None and weight.numel() == product.rows * product.cols
        if not everything or not layer._kind.pattern.BUFFERS:
            return given, layer._kind  # incomplete: the caller reports the missing keys
        if layer._rule is not None:
            return given, layout_named("dense")
        if layer.weight.numel() == product.rows * product.cols:
            names, count = ", ".join(layer._kind.pattern.BUFFERS), product.rows * product.cols
            raise ValueError(f"{prefix}weight: expected {names} beside {count} values, which may be dense or packed, got none")
        return {**given, **_pruned(given["weight"], prefix, layer)}, layer._kind
    if "rule" in given and not layer._kind.pattern.BUFFERS:
        _check(given, prefix, product, kind)
        return given, kind
    return _held(given, prefix, layer, kind), layer._kind


def _describes(layout: type[Layout], given: Entries) -> bool:
    """Whether the entries hold a pattern of this layout."""
    buffers = layout.pattern.BUFFERS
    return bool(buffers) and all(name in given for name in buffers)


def _chosen(matrix: torch.Tensor, prefix: str, layer: SparseWeight) -> tuple[Pattern, Rule | None]:
    try:
        return layer._chosen(matrix, layer.nnz or layer._initial_nnz)
    except ValueError as error:
        raise ValueError(f"{prefix}weight: {error}") from error


def _pruned(dense: torch.Tensor, prefix: str, layer: SparseWeight) -> Entries:
    """A dense weight as the layer stores it, pruned to its nnz."""
    matrix = dense.reshape(layer.product.rows, layer.product.cols)
    pattern, rule = _chosen(matrix, prefix, layer)
    if rule is not None:
        return _entries(matrix.reshape(-1), pattern, rule)
    values = layer._kind.pack(_wide(matrix), pattern)
    return _entries(values.to(dense.dtype), pattern, None)


def _check(given: Entries, prefix: str, product: Product, kind: type[Layout]) -> tuple[Pattern, Rule | None]:
    """The pattern and rule in the entries; ValueError if they are not valid, or do not fit the weight."""
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
    if same_kind and (rule is None) == (layer._rule is None) and pattern.capacity == layer._pattern.capacity:
        return given
    rest = {name: tensor for name, tensor in given.items() if name not in (*kind.pattern.BUFFERS, "rule", "weight")}
    if weight is None:
        if not same_kind or (rule is None) != (layer._rule is None):
            return rest
        return {**rest, **_entries(None, _resized(pattern, prefix, layer), rule)}
    if layer._rule is not None:
        return {**rest, **_as_dense_weight(weight, pattern, rule, kind, prefix, layer)}
    values, at = weight, pattern.positions()
    if rule is not None:  # a packed weight holds what products multiplied by: the pruned, scaled matrix
        values = kind.matrix(_wide(weight), pattern, rule).to(weight.dtype).view(-1)
        at = torch.arange(values.numel(), device=values.device)
    if same_kind and rule is None:
        fresh = _resized(pattern, prefix, layer)
    else:
        try:
            fresh = layer._kind.pattern.from_mask(pattern.mask(), layer._pattern.capacity)
        except ValueError as error:
            raise ValueError(f"{prefix}weight: {error}{_room(pattern, layer)}") from error
    return {**rest, **_entries(taken(values, slot_map(at, fresh.positions())), fresh, None)}


def _as_dense_weight(
    weight: torch.Tensor, pattern: Pattern, rule: Rule | None, kind: type[Layout], prefix: str, layer: SparseWeight
) -> Entries:
    """Entries for a layer with a dense weight; 0 where nothing was stored."""
    if rule is None:
        weight = kind.unpack(_wide(weight), pattern).to(weight.dtype).view(-1)
    if kind.pattern is layer._kind.pattern and pattern.capacity == layer._pattern.capacity:
        return _entries(weight, pattern, rule or Rule(pattern.RULES[0]))
    fresh, own = _chosen(weight.view(pattern.rows, pattern.cols), prefix, layer)
    return _entries(weight, fresh, own)


def _resized(pattern: Pattern, prefix: str, layer: SparseWeight) -> Pattern:
    try:
        return pattern.resized(layer._pattern.capacity)
    except ValueError as error:
        raise ValueError(f"{prefix}weight: {error}{_room(pattern, layer)}") from error


def _room(pattern: Pattern, layer: SparseWeight) -> str:
    """What gives a layer room for a pattern that is too large for it, as the end of a sentence; "" if it is not."""
    nnz, positions = pattern.nnz, pattern.rows * pattern.cols
    if nnz <= layer._pattern.capacity:
        return ""
    share = math.ceil(nnz / positions * 1000) / 1000
    return f"; make the layer with capacity={share:g} or more, or with the method= of `sparsify_` that trained this checkpoint"


def _entries(weight: torch.Tensor | None, pattern: Pattern, rule: Rule | None) -> Entries:
    """Weight, pattern and rule as entries of a state dict."""
    entries = dict(pattern.buffers)
    if weight is not None:
        entries["weight"] = weight
    if rule is not None:
        entries["rule"] = rule.encoded(next(iter(entries.values())).device)
    return entries


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or float64 as it is: kernels of every device take these, and they hold every value exactly."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
