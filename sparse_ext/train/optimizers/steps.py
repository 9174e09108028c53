"""What a step of an optimizer does."""

from __future__ import annotations

import torch


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
