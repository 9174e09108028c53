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
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        with _disable_current_modes(), torch.no_grad():
            yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def matrix(layout: type[Layout], pattern: Pattern, rule: Rule | None, weight: torch.Tensor) -> torch.Tensor:
    """The matrix [rows, cols] that products multiply by; gradients reach the weight as those of the kernels do."""
    if weight.is_meta:  # the shapes are all there is
        return weight.sum().expand(pattern.rows, pattern.cols)
    if rule is None:
        flat = _scattered(pattern, weight.flatten())
    elif torch.onnx.is_in_onnx_export():
        flat = _masked(layout, pattern, rule, weight)
    else:  # straight through
        flat = weight - (weight.detach() - layout.matrix(weight.detach(), pattern, rule).flatten())
    return flat.view(pattern.rows, pattern.cols)


def _scattered(pattern: Pattern, weight: torch.Tensor) -> torch.Tensor:
    """The matrix of a packed weight, flat."""
    with _computed_now():
        at = pattern.positions()
        slots = (at >= 0).nonzero().squeeze(1)
        at, is_full = at[slots], slots.numel() == pattern.capacity
    values = weight if is_full else weight[slots]
    return weight.new_zeros(pattern.rows * pattern.cols).scatter(0, at, values)


def _masked(layout: type[Layout], pattern: Pattern, rule: Rule, weight: torch.Tensor) -> torch.Tensor:
    """The matrix of a dense weight, flat, by PyTorch's own functions; ValueError if the rule does more than to mask."""
    with _computed_now():
        mask = pattern.mask().flatten()
        probe = torch.linspace(1, 2, mask.numel(), dtype=weight.dtype, device=mask.device)
        only_masks = torch.equal(layout.matrix(probe, pattern, rule).flatten(), probe * mask)
    if not only_masks:
        raise ValueError(
            f"ONNX: expected a rule that leaves the used values of a dense weight as they are, got {rule.name!r}; "
            "export the dense model instead, densify_(copy.deepcopy(model))"
        )
    return weight.masked_fill(~mask, 0)


def multiply(product: Any, weight: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """y of x, as the product takes it, and the matrix `weight`: it has derivatives of every order and kind."""
    dense = layout_named("dense")
    kernels = kernels_of(dense, product)
    return kernels.forward(product, weight.to(x.dtype).view(-1), None, dense.operands(), x, bias, False)


def sampled(pattern: Pattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(a^T b) at the pattern, [capacity], 0 behind it; a [k, rows], b [k, cols]."""
    at = pattern.positions()
    return (a.t() @ b).flatten()[at.clamp(min=0)].masked_fill(at < 0, 0)
