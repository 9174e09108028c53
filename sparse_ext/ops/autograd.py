"""Differentiation, once for every layout: the gradient of each product is another of the layout's products.

The Functions stand outside the operators and keep ctx in `forward`: both cost microseconds a call otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from .layouts import Csr, Layout
from .library import define
from .types import Pattern


class LinearFunction(torch.autograd.Function):
    """y [tokens, rows] = x W^T + bias, with the pattern's derived tensors as plain arguments so that compilers see them."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: type[Layout],
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: int,
        cols: int,
        *derived: torch.Tensor,
    ) -> torch.Tensor:
        ctx.layout, ctx.shape = layout, (rows, cols)
        ctx.save_for_backward(x, weight, *derived)
        return layout.matmul(weight, Pattern.of_derived(rows, cols, *derived), x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, *derived = ctx.saved_tensors
        pattern = Pattern.of_derived(*ctx.shape, *derived)
        _, needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dx = ctx.layout.matmul_t(weight, pattern, dy) if needs_x else None
        dw = ctx.layout.grad_weight(pattern, dy, x) if needs_weight else None
        db = dy.sum(0) if needs_bias else None
        return None, dx, dw, db, None, None, *(None for _ in derived)


class SampledFunction(torch.autograd.Function):
    """values [capacity] = (a^T b) at the pattern; a [k, rows], b [k, cols]. Its gradients are the two matrix products."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, rows: int, cols: int, *derived: torch.Tensor) -> torch.Tensor:
        ctx.shape = (rows, cols)
        ctx.save_for_backward(a, b, *derived)
        return Csr.grad_weight(Pattern.of_derived(rows, cols, *derived), a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, *derived = ctx.saved_tensors
        pattern = Pattern.of_derived(*ctx.shape, *derived)
        needs_a, needs_b, *_ = ctx.needs_input_grad
        da = Csr.matmul(dv, pattern, b, None) if needs_a else None
        db = Csr.matmul_t(dv, pattern, a) if needs_b else None
        return da, db, None, None, *(None for _ in derived)


@define("add_outer_(Tensor(a!) total, Tensor dy, Tensor x) -> ()")
def add_outer_(total: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> None:
    """total [rows, cols] += dy^T x in total's dtype: the dense weight gradient of one backward pass."""
    total.addmm_(dy.to(total.dtype).t(), x.to(total.dtype))


@add_outer_.fake
def _(total, dy, x):
    return None


class _DenseGradObserver(torch.autograd.Function):
    """Identity on y; its backward adds y's and x's outer product to `total`."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.total = total  # not saved: autograd would see its change in place as an error
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        tokens = dy.shape[:-1].numel()  # not -1: a layer may have no rows or no columns
        add_outer_(ctx.total, dy.reshape(tokens, dy.shape[-1]), x.reshape(tokens, x.shape[-1]))
        return dy, None, None


def accumulate_dense_grad(y: torch.Tensor, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """y [..., rows], whose backward also adds the dense gradient dy^T x to total [rows, cols]; x [..., cols].

    It sits outside the layer's product: any layout is observed alike, before clipping or unscaling touch a gradient, and
    only in a real backward (recomputation by activation checkpointing does not count twice).
    """
    return cast(torch.Tensor, _DenseGradObserver.apply(y, x.detach(), total))
