"""What a step of an optimizer does, which optimizers a wrapper steps, and which parameters they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def leaves(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that step in the end: those that a wrapper holds in its attributes, at any depth, or this one."""
    found: dict[torch.optim.Optimizer, None] = {}
    seen = {id(optimizer)}

    def search(one: torch.optim.Optimizer) -> None:
        inner = list(_held(one))
        for other in inner:
            if id(other) not in seen:
                seen.add(id(other))
                search(other)
        if not inner:
            found[one] = None

    search(optimizer)
    return list(found) or [optimizer]


def _held(holder: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    """The optimizers in an optimizer's attributes that train some of its parameters."""
    mine = parameters_of([holder])
    for value in vars(holder).values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, torch.optim.Optimizer) and mine & parameters_of([one]):
                yield one


def parameters_of(optimizers: Sequence[torch.optim.Optimizer]) -> set[int]:
    """The ids of all parameters that the optimizers hold."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def changes_nothing(optimizer: torch.optim.Optimizer) -> bool:
    """Whether rates and gradients are 0, as when torch.distributed.checkpoint steps to have an optimizer make its state."""
    rates = [group.get("lr", 1.0) for group in optimizer.param_groups]
    # A rate on a GPU is one that trains: reading it would wait for the device.
    if any((isinstance(rate, torch.Tensor) and not rate.is_cpu) or bool(rate) for rate in rates):
        return False
    return not any(p.grad is not None and p.grad.any() for group in optimizer.param_groups for p in group["params"])


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler has a fused optimizer skip its present step: it says so in an attribute."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def gradients_wait(optimizer: torch.optim.Optimizer) -> bool:
    """Whether gradients wait for a step, and finite ones: those of a step that a GradScaler skips are not."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return any(bool(grad.any()) for grad in grads) and all(bool(grad.isfinite().all()) for grad in grads)
