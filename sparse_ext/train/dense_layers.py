"""Dense layers that a Sparsifier trains beside the sparse ones, for methods that freeze parts of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sparse_ext.methods import Importance, Method, Time
from sparse_ext.nn import SparseLayer
from sparse_ext.nn.plain import DenseLayer, eligible, enroll, release

from .names import named, with_values
from .optimizers.check import trainable
from .optimizers.wrappers import parameters_of, sequence
from .state import list_of, methods_by_name


def methods_by_layer(
    model: nn.Module, sparse: Mapping[str, SparseLayer], method: Method | Mapping[str, Method], optimizer: Any
) -> tuple[dict[str, Any], dict[str, Method]]:
    """({name: layer} of all layers that a Sparsifier has to do with, {name: its methods}).

    Args:
        sparse: {name: layer} of the sparse ones.

    Raises:
        ValueError: as `methods_by_name`.
    """
    idle = sparse.keys() - trainable(sparse, needed=False)
    methods = list_of(method)
    if not any(part.trains_dense_layers for one in methods for part in one.parts):
        return dict(sparse), methods_by_name(method, list(sparse), idle)
    found, kept = eligible(model)
    held = {id(p) for one in sequence(optimizer) for p in parameters_of(one)}
    dense = {name: layer for name, layer in named(model, found).items() if _is_trained(layer, held)}
    everyone = {**sparse, **dense}
    chosen = methods_by_name(method, list(everyone), [*idle, *dense])
    left = {type(part).__name__ for name in dense for part in _parts(chosen.get(name)) if part.changes_patterns}
    if left and not sparse:
        raise ValueError(
            f"expected sparse layers for {', '.join(sorted(left))}, got dense ones alone; call sparsify_(model, ...) first, or "
            "give the method that freezes by itself"
        )
    for name in dense:
        parts = [part for part in _parts(chosen.get(name)) if part.trains_dense_layers]
        chosen.pop(name, None)
        if parts:
            chosen[name] = parts[0]
    for name, why in kept.items():
        warnings.warn(f"{name!r} trains as a whole: {why}", stacklevel=4)
    return {name: layer for name, layer in everyone.items() if name in sparse or name in chosen}, chosen


def _parts(method: Method | None) -> tuple[Method, ...]:
    return () if method is None else method.parts


def _is_trained(layer: Any, held: set[int]) -> bool:
    return layer.weight.requires_grad and id(layer.weight) in held


@contextmanager
def enrolled(layers: dict[str, Any]) -> Iterator[None]:
    """Makes dense layers ones that can be trained in part; they are released again if the block ends by an exception.

    ValueError if one has no values yet.
    """
    new = [layer for layer in with_values(layers).values() if not isinstance(layer, SparseLayer | DenseLayer)]
    for layer in new:
        enroll(layer)
    try:
        yield
    except BaseException:
        for layer in new:
            release(layer)
        raise


def are_scored(group: Sequence[Any]) -> bool:
    """Whether the last scoring step has scored some of these layers, and all of them by finite gradients."""
    return any(managed.part.scored for managed in group) and not any(managed.part.spoiled for managed in group)


def arm(groups: Sequence[tuple[Method, Sequence[Any]]], postponed_to: Sequence[int], time: Time, awaited: bool) -> None:
    """Prepares what is partly trained for the step of this time.

    Args:
        groups: (method, the layers that it trains). postponed_to: the step to which each method's update was put off, or 0.
        awaited: whether a gradient of every layer is waited for.
    """
    scoring: dict[Any, Importance | None] = {}
    for (method, group), to in zip(groups, postponed_to, strict=True):
        if method.freezes:
            is_due = time.step <= to or method.is_update(time)
            scoring |= dict.fromkeys(group, method.importance if is_due else None)
    for managed, by in scoring.items():
        managed.part.arm(by, awaited)
