"""Products of the weight written out as a dense matrix, by PyTorch's own functions: what kernels have no derivative for.

Used where PyTorch asks for more than a product and its gradient: transforms of `torch.func`, forward-mode derivatives, the
gradient of a gradient, and ONNX. It takes the memory and the time of the dense layer, and is as exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .layout import Layout, kernels_of, layout_named
from .pattern import Pattern
from .rule import Rule


@contextmanager
def _computed_now() -> Iterator[None]:
    """What is computed inside is a constant of a program that is being exported."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        with _disable_current_modes(), torch.no_grad():
            yield
    finally:
        torch._C._set_tracing_state(state)


def matrix(layout: type[Layout], pattern: Pattern, rule: Rule | None, weight: torch.Tensor) -> torch.Tensor:
    """The matrix [rows, cols] that products multiply by; gradients reach the weight as those of the kernels do."""
    size = pattern.rows * pattern.cols
    if rule is not None:
        used = layout.matrix(weight.detach(), pattern, rule).flatten()
        return (weight - (weight.detach() - used)).view(pattern.rows, pattern.cols)  # straight through
    with _computed_now():
        at = pattern.positions()
        slots = (at >= 0).nonzero().squeeze(1)
        at = at[slots]
    values = weight if slots.numel() == weight.shape[0] else weight[slots]
    return weight.new_zeros(size).scatter(0, at, values).view(pattern.rows, pattern.cols)


def multiply(product: Any, weight: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """y of x, as the product takes it, and the matrix `weight`: it has derivatives of every order and kind."""
    dense = layout_named("dense")
    kernels = kernels_of(dense, product)
    return kernels.forward(product, weight.to(x.dtype).view(-1), None, dense.operands(), x, bias, False)


def sampled(pattern: Pattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(a^T b) at the pattern, [capacity], 0 behind it; a [k, rows], b [k, cols]."""
    at = pattern.positions()
    return (a.t() @ b).flatten()[at.clamp(min=0)].masked_fill(at < 0, 0)
