"""Differentiation, once for every layout: the gradient of each product is another of the layout's products.

The Functions stand outside the operators and keep ctx in `forward`: both cost microseconds a call otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .csr.pattern import CsrPattern
from .layout import Csr, Layout
from .pattern import Traits


class LinearFunction(torch.autograd.Function):
    """y [tokens, rows] = x W^T + bias, or torch.relu of that.

    The pattern's traits and derived tensors are plain arguments so that compilers see them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layout: type[Layout],
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
        traits: Traits,
        draw: torch.Tensor | None,
        *derived: torch.Tensor,
    ) -> torch.Tensor:
        ctx.layout, ctx.traits = layout, traits
        ctx.draw = draw  # not saved: every backward pass counts in it, which autograd would see as an error
        y = layout.matmul(weight, layout.pattern.of_derived(traits, draw, *derived), x, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *derived)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, y, *derived = ctx.saved_tensors
        if y is not None:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)  # as relu's own: 0 where y is not positive
        pattern = ctx.layout.pattern.of_derived(ctx.traits, ctx.draw, *derived)
        _, needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dx = ctx.layout.matmul_t(weight, pattern, dy) if needs_x else None
        dw = ctx.layout.grad_weight(pattern, dy, x) if needs_weight else None
        if dw is not None and dw.dtype is not weight.dtype:  # of a master, which autocast does not cast
            dw = dw.to(weight.dtype)
        db = dy.sum(0) if needs_bias else None
        return None, dx, dw, db, None, None, None, *(None for _ in derived)


class SampledFunction(torch.autograd.Function):
    """values [capacity] = (a^T b) at the pattern; a [k, rows], b [k, cols]. Its gradients are the two matrix products."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, traits: Traits, *derived: torch.Tensor) -> torch.Tensor:
        ctx.traits = traits
        ctx.save_for_backward(a, b, *derived)
        return Csr.grad_weight(CsrPattern.of_derived(traits, None, *derived), a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, *derived = ctx.saved_tensors
        pattern = CsrPattern.of_derived(ctx.traits, None, *derived)
        needs_a, needs_b, *_ = ctx.needs_input_grad
        da = Csr.matmul(dv, pattern, b, None) if needs_a else None
        db = Csr.matmul_t(dv, pattern, a) if needs_b else None
        return da, db, None, *(None for _ in derived)
