"""Optimizers that hold other optimizers: which ones they are, and which ones step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# These only pass calls on to the optimizer that they hold: accelerate's, Lightning's, Fabric's, and torch.distributed's.
_DELEGATES = {"AcceleratedOptimizer", "LightningOptimizer", "_FabricOptimizer", "ZeroRedundancyOptimizer", "_NamedOptimizer"}


def parameters_of(optimizer: Any) -> list[torch.Tensor]:
    """The parameters of all groups, in their order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers in its attributes, under whatever name, that train some of the same parameters."""
    mine, held = {id(p) for p in parameters_of(optimizer)}, {}
    for value in vars(optimizer).values():
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, torch.optim.Optimizer) and one is not optimizer:
                held[one] = not mine.isdisjoint(id(p) for p in parameters_of(one))
    return [one for one, shares in held.items() if shares]


def with_inner(optimizer: Any) -> list[Any]:
    """The optimizer, and all that it holds, from the outside in."""
    found: dict[Any, None] = {}
    left = [optimizer]
    while left:
        found[left[0]] = None
        left = [one for one in [*inner_optimizers(left[0]), *left[1:]] if one not in found]  # they may know their wrapper
    return list(found)


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that step in the end, under all wrappers: this one, or the innermost of those that it holds."""
    found = with_inner(optimizer)
    # One that knows its wrapper holds nothing further inside.
    return [one for at, one in enumerate(found) if all(inner in found[:at] for inner in inner_optimizers(one))]


def without_delegates(optimizer: Any) -> Any:
    """The optimizer without wrappers that only pass calls on."""
    while not _DELEGATES.isdisjoint(kind.__name__ for kind in type(optimizer).__mro__) and (
        inner := inner_optimizers(optimizer)
    ):
        optimizer = inner[0]
    return optimizer


def sequence(optimizers: Any) -> tuple[Any, ...]:
    """One optimizer, or several, as a tuple."""
    return tuple(optimizers) if isinstance(optimizers, Sequence) else (optimizers,)


def group_of(optimizer: Any, weight: torch.Tensor) -> dict[str, Any] | None:
    """The parameter group that holds the weight; None: it holds it not."""
    return next((group for group in optimizer.param_groups if any(p is weight for p in group["params"])), None)
