"""Whether an optimizer's step has left `weight.grad` multiplied by a GradScaler's scale.

A GradScaler hands its scale to a fused optimizer (`grad_scale`) and leaves the gradients to it. Those of PyTorch write them
back without the scale; others need not. So what the step did is seen by the size of the gradient, on its device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Before(NamedTuple):
    """What was known before a step: the scale, and the sum of the gradient's magnitudes."""

    scale: torch.Tensor
    size: torch.Tensor


def before_step(gradient: torch.Tensor | None, scale: torch.Tensor | None) -> Before | None:
    """None: the optimizer was given no scale, or there is no gradient."""
    if scale is None or gradient is None:
        return None
    return Before(torch.as_tensor(scale).detach().double().clone(), _size(gradient))


def scale_left(gradient: torch.Tensor | None, before: Before | None) -> torch.Tensor | None:
    """float64 []: by what the gradient is still multiplied: the scale, or 1. None: it was not multiplied."""
    if gradient is None or before is None:
        return None
    scale = before.scale.to(gradient.device)
    shrunk = (_size(gradient) / before.size).log().abs() * 2 > scale.log().abs()  # NaN, of gradients of 0, is not
    return torch.where(shrunk, torch.ones_like(scale), scale)


def _size(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.detach().abs().sum(dtype=torch.float64)
