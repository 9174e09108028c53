"""`param_groups`: which parameters weight decay is for, when a sparse layer's weight has one dimension."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from .layer import SparseLayer

# What holds a sparse layer's values: the weight, or where it is parametrized, what it is computed of.
_VALUES = ("weight", "weight_orig", "parametrizations.weight.original")


def param_groups(model: nn.Module, weight_decay: float, *, no_decay: str | Iterable[str] = ()) -> list[dict[str, Any]]:
    """Groups of a model's parameters for an optimizer: matrices decay; biases, and what normalises or scales, do not.

    Recipes that tell them apart by `parameter.ndim` take a sparse layer's weight, which has one dimension, for a bias. Here it
    decays as the dense weight would. A parameter decays if it is the weight of a sparse layer or has at least two dimensions.

    Args:
        model: sparse, dense or mixed.
        weight_decay: of the parameters that decay, finite and at least 0.
        no_decay: names, or glob patterns of names, of parameters or modules that shall not decay either: "embed*", "*.head".

    Returns:
        [{"params": [...], "weight_decay": weight_decay}, {"params": [...], "weight_decay": 0.0}]; no empty group.
        Each parameter with `requires_grad` is in it once, also one that has several names.

    Raises:
        ValueError: weight_decay is out of range, or a pattern fits no name.

    Example:
        optimizer = torch.optim.AdamW(param_groups(model, 0.05, no_decay=["embedding"]), lr=1e-3)
    """
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"param_groups: expected a finite weight_decay of at least 0, got {weight_decay}")
    patterns = [no_decay] if isinstance(no_decay, str) else list(no_decay)
    parameters = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(_fits(name, pattern) for name, _ in parameters):
            raise ValueError(f"param_groups: expected no_decay to name parameters or modules of the model, got {pattern!r}")
    excluded = {parameter for name, parameter in parameters if any(_fits(name, pattern) for pattern in patterns)}
    sparse = set(_sparse_weights(model))
    groups: tuple[list[Any], list[Any]] = ([], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter not in excluded and (parameter in sparse or parameter.dim() > 1)
            groups[not decays].append(parameter)
    return [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (weight_decay, 0.0), strict=True) if group]


def _fits(name: str, pattern: str) -> bool:
    """Whether the pattern fits the parameter's name, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _sparse_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    for layer in model.modules():
        if isinstance(layer, SparseLayer):
            yield from (parameter for name, parameter in layer.named_parameters() if name in _VALUES)
