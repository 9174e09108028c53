"""Optimizers that hold other optimizers: which ones they are, and which ones step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

# These only pass calls on to the optimizer that they hold: accelerate's, Lightning's, Fabric's, and torch.distributed's.
_DELEGATES = {"AcceleratedOptimizer", "LightningOptimizer", "_FabricOptimizer", "ZeroRedundancyOptimizer", "_NamedOptimizer"}


def parameters_of(optimizer: Any) -> list[torch.Tensor]:
    """The parameters of all groups, in their order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers in its attributes, under whatever name, that train some of the same parameters."""
    mine = {id(p) for p in parameters_of(optimizer)}
    values = [one for value in vars(optimizer).values() for one in (value if isinstance(value, list | tuple) else [value])]
    held = dict.fromkeys(one for one in values if isinstance(one, torch.optim.Optimizer) and one is not optimizer)
    return [one for one in held if mine & {id(p) for p in parameters_of(one)}]


def with_inner(optimizer: Any) -> Iterator[Any]:
    """The optimizer, and all that it holds, from the outside in."""
    yield optimizer
    for inner in inner_optimizers(optimizer):
        yield from with_inner(inner)


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that step in the end, under all wrappers: this one, or the innermost of those that it holds."""
    return list(dict.fromkeys(one for one in with_inner(optimizer) if not inner_optimizers(one)))


def without_delegates(optimizer: Any) -> Any:
    """The optimizer without wrappers that only pass calls on."""
    while not _DELEGATES.isdisjoint(kind.__name__ for kind in type(optimizer).__mro__) and inner_optimizers(optimizer):
        optimizer = inner_optimizers(optimizer)[0]
    return optimizer


def sequence(optimizers: Any) -> tuple[Any, ...]:
    """One optimizer, or several, as a tuple."""
    return tuple(optimizers) if isinstance(optimizers, Sequence) else (optimizers,)


def group_of(optimizer: Any, weight: torch.Tensor) -> dict[str, Any] | None:
    """The parameter group that holds the weight; None: it holds it not."""
    return next((group for group in optimizer.param_groups if any(p is weight for p in group["params"])), None)
