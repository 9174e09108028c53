"""The dense weight gradient of a backward pass, in tiles of rows: summed up, or passing by as a growth score.

Both take the very same tiles, so that both give growth the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from .boundary.library import define
from .csr.kernels import check_columns
from .regrow.kernels import check_candidates, check_pattern_of, tile_rows


def _tiles(dy: torch.Tensor, x: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[range, torch.Tensor]]:
    """dy^T x [rows, cols], a tile of rows after the other; each tile is gone when the next one comes."""
    rows, cols = dy.shape[1], x.shape[1]
    step = min(rows, tile_rows(x.device, cols))
    x, memory = x.to(dtype), x.new_empty((step, cols), dtype=dtype)
    for first in range(0, rows, max(1, step)):
        part = range(first, min(first + step, rows))
        yield part, torch.mm(dy[:, part.start : part.stop].to(dtype).t(), x, out=memory[: len(part)])


def _flops(*args: Any, **kwargs: Any) -> int:
    *_, dy, x = args
    return int(2 * dy[0] * dy[1] * x[1])


@define("add_outer_(Tensor(a!) total, Tensor(b!) passes, Tensor dy, Tensor x) -> ()", flops=_flops)
def add_outer_(total: torch.Tensor, passes: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> None:
    """total [rows, cols] += dy^T x in total's dtype, passes [1] += 1: the dense weight gradient of one backward pass."""
    if total.shape != (dy.shape[1], x.shape[1]):
        raise ValueError(f"add_outer_: expected total of shape ({dy.shape[1]}, {x.shape[1]}), got {tuple(total.shape)}")
    for part, tile in _tiles(dy, x, total.dtype):
        total[part.start : part.stop] += tile
    passes += 1


@add_outer_.fake
def _(total, passes, dy, x):
    return None


@define(
    "stream_outer_(Tensor(a!) at_entry, Tensor(b!) score, Tensor(c!) position, Tensor(d!) count, Tensor(e!) passes,"
    " Tensor row_ptr, Tensor col_idx, Tensor dy, Tensor x) -> ()",
    flops=_flops,
)
def stream_outer_(
    at_entry: torch.Tensor,
    score: torch.Tensor,
    position: torch.Tensor,
    count: torch.Tensor,
    passes: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    dy: torch.Tensor,
    x: torch.Tensor,
) -> None:
    """Lets dy^T x pass by as the growth score of a pattern; passes [1] += 1. Of a second pass the result means nothing."""
    best = check_candidates("stream_outer_", score, col_idx.numel(), at_entry, score, position, count)
    row_ptr, col_idx = check_pattern_of("stream_outer_", score, row_ptr, col_idx, x.shape[1])
    check_columns("stream_outer_", "dy", dy, row_ptr.numel() - 1, "output")
    if dy.device != score.device:
        raise ValueError(f"stream_outer_: expected dy on {score.device} (as score), got {dy.device}")
    for part, tile in _tiles(dy, x, score.dtype):
        best.take_(row_ptr, col_idx, x.shape[1], tile, part)
    passes += 1


@stream_outer_.fake
def _(at_entry, score, position, count, passes, row_ptr, col_idx, dy, x):
    return None


class _DenseGradObserver(torch.autograd.Function):
    """Identity on y; its backward hands y's and x's outer product to `add_outer_` or `stream_outer_`."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, x: torch.Tensor, *into: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.into = into  # not saved: autograd would see their change in place as an error
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        tokens = dy.shape[:-1].numel()  # not -1: a layer may have no rows or no columns
        take = add_outer_ if len(ctx.into) == 2 else stream_outer_
        take(*ctx.into, dy.reshape(tokens, dy.shape[-1]), x.reshape(tokens, x.shape[-1]))
        return dy, None, *(None for _ in ctx.into)


def observe_dense_grad(y: torch.Tensor, x: torch.Tensor, *into: torch.Tensor) -> torch.Tensor:
    """y [..., rows], whose backward also sees the dense gradient dy^T x; x [..., cols].

    into: (total, passes), see `add_outer_`; or (*candidates, passes, row_ptr, col_idx), see `stream_outer_`. It sits outside
    the layer's product: any layout is observed alike, before clipping or unscaling touch a gradient, and only in a real
    backward (recomputation by activation checkpointing does not count twice).
    """
    return cast(torch.Tensor, _DenseGradObserver.apply(y, x.detach(), *into))
