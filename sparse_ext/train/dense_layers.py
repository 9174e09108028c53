"""Dense layers that a Sparsifier trains beside the sparse ones, for methods that freeze parts of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer
from sparse_ext.nn.plain import Adopted, adopt, adoptable, release

from .names import named
from .state import methods_by_name
from .wrappers import parameters_of, sequence


def methods_by_layer(
    model: nn.Module,
    sparse: Mapping[str, SparseLayer],
    method: Method | Mapping[str, Method],
    optimizer: Any,
    idle: Iterable[str],
) -> tuple[dict[str, Any], dict[str, Method]]:
    """({name: layer} of all layers that a Sparsifier has to do with, {name: its methods}).

    Args:
        sparse: {name: layer} of the sparse ones. idle: the names of those among them that need no method.

    Raises:
        ValueError: as `methods_by_name`.
    """
    methods = [method] if isinstance(method, Method) else list(method.values())
    if not any(part.trains_dense_layers for one in methods for part in one.parts):
        return dict(sparse), methods_by_name(method, list(sparse), idle)
    found, kept = adoptable(model)
    held = {id(p) for one in sequence(optimizer) for p in parameters_of(one)}
    dense = {name: layer for name, layer in named(model, found).items() if _is_trained(layer, held)}
    everyone = {**sparse, **dense}
    chosen = methods_by_name(method, list(everyone), [*idle, *dense])
    for name in dense:
        parts = [part for part in chosen[name].parts if part.trains_dense_layers] if name in chosen else []
        chosen.pop(name, None)
        if parts:
            chosen[name] = parts[0]
    for name, why in kept.items():
        warnings.warn(f"{name!r} trains as a whole: {why}", stacklevel=4)
    return {name: layer for name, layer in everyone.items() if name in sparse or name in chosen}, chosen


def _is_trained(layer: Any, held: set[int]) -> bool:
    return layer.weight.requires_grad and id(layer.weight) in held


@contextmanager
def adopted(layers: Iterable[Any]) -> Iterator[None]:
    """Makes dense layers ones that can be trained in part; they are released again if the block ends by an exception."""
    new = [layer for layer in layers if not isinstance(layer, SparseLayer | Adopted)]
    for layer in new:
        adopt(layer)
    try:
        yield
    except BaseException:
        for layer in new:
            release(layer)
        raise


def are_scored(group: Sequence[Any]) -> bool:
    """Whether the last scoring step has scored some of these layers, and all of them by finite gradients."""
    return any(managed.part.scored for managed in group) and not any(managed.part.spoiled for managed in group)


def arm(groups: Sequence[tuple[Method, Sequence[Any]]], scoring: Sequence[bool], awaited: bool) -> None:
    """Prepares what is partly trained for the next step.

    Args:
        groups: (method, the layers that it trains). scoring: whether each method scores the gradient of that step.
        awaited: whether a gradient of every layer is waited for.
    """
    by: dict[Any, Method | None] = {}
    for (method, group), scores in zip(groups, scoring, strict=True):
        if method.freezes:
            by |= dict.fromkeys(group, method if scores and method.importance is not None else None)
    for managed, method_that_scores in by.items():
        managed.part.arm(method_that_scores, awaited)
