"""Gradients that are added right before the optimizer's step.

Masked decay pulls the weights that products leave out towards 0 (Zhou et al. 2021, SR-STE). The exploration penalty pulls all
towards 0, those that products leave out the more (Jayakumar et al. 2020, Top-KAST).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparse_ext.methods import Exploration, Method
from sparse_ext.nn import SparseLayer

from ..managed import ManagedLayer
from ..stamps import is_current
from ..uncompiled import uncompiled
from .steps import changes_nothing


def _masked(layer: SparseLayer, method: Method) -> tuple[float, torch.Tensor]:
    """(factor, what it multiplies): the gradient of masked decay."""
    return method.masked_decay, layer.weight.detach().masked_fill(layer.pattern.mask().view(-1), 0)


def _exploring(layer: SparseLayer, penalty: Exploration) -> tuple[float, torch.Tensor]:
    """The same of the exploration penalty. It reaches what is frozen, too, on which no optimizer steps."""
    weight, used = layer.weight.detach(), layer.pattern.mask().view(-1)
    gradient = weight.sign() if penalty.norm == "l1" else weight
    density = used.to(torch.promote_types(weight.dtype, torch.float32)).mean().clamp(min=1 / max(1, used.numel()))
    return penalty.strength, torch.where(used, gradient, gradient / density.to(weight.dtype))


def decay_with(optimizer: torch.optim.Optimizer, layers: Callable[[], Sequence[ManagedLayer]], owner: object) -> None:
    """Adds these to the gradients right before every step of this innermost optimizer, until the owner is freed.

    Not in the backward pass: the decay must be added once for all micro-batches, after clipping and unscaling. If a later
    Sparsifier trains a layer, that one's hook alone adds it.

    layers: () -> those that the optimizer trains.
    """

    @uncompiled
    def decay() -> None:
        if changes_nothing(optimizer):
            return
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves unscaling to fused optimizers
        for managed in layers():
            layer, method = managed.layer, managed.method
            if (
                layer.chosen_by is None
                or layer.weight.grad is None
                or not layer.weight.requires_grad
                or not is_current(managed)
            ):
                continue
            if method.masked_decay:
                factor, gradient = _masked(layer, method)
            elif method.exploration is not None:
                factor, gradient = _exploring(layer, method.exploration)
            else:
                continue
            assert layer.weight.grad is not None
            layer.weight.grad.add_(gradient if scale is None else gradient * scale, alpha=factor)

    @torch.no_grad()
    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            decay()
            return None

        def with_decay() -> Any:  # the gradients are there when the closure has run
            loss = closure()
            with torch.no_grad():
                decay()
            return loss

        return (args[0], with_decay, *args[2:]), {name: value for name, value in kwargs.items() if name != "closure"}

    weakref.finalize(owner, optimizer.register_step_pre_hook(before).remove)
