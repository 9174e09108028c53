"""Products with a matrix that is written out panel by panel, each multiplied densely by torch while it is in the cache.

A panel is a block of rows of the matrix (of columns for the input gradient). Each panel serves its own part of the output, so
nothing is accumulated. What is written where the pattern stores nothing is 0, which is multiplied too: with Inf and NaN in x it
gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch

from .boundary.launch import workspace

PANEL_BYTES = 16 << 20
STEP = 16  # panels begin at multiples of so many rows or columns: whole cache lines of what they write

Fill = Callable[[torch.Tensor, int], None]  # writes the panel that begins at this row (input gradient: column)


def bounds(rows: int, cols: int, tokens: torch.Tensor, dim: int = 0) -> Iterator[tuple[int, int]]:
    """Yields (first, end) of the panels of a [rows, cols] matrix, by rows (dim 1: columns); tokens: what multiplies it."""
    length, line_bytes = (rows, cols)[dim], (rows, cols)[1 - dim] * tokens.element_size()
    step = length
    if tokens.is_cpu:  # a GPU takes one panel: it writes at memory speed, and torch's allocator keeps the memory
        count = max(1, -(-length * line_bytes // PANEL_BYTES))
        step = min(length, -(-length // (count * STEP)) * STEP)
    for first in range(0, length, max(1, step)):
        yield first, min(first + step, length)


def panels(rows: int, cols: int, tokens: torch.Tensor, dim: int = 0) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yields (first, end, memory) as `bounds`. All panels share the memory, which has the dtype of the tokens."""
    sizes, memory = [rows, cols], None
    for first, end in bounds(rows, cols, tokens, dim):
        sizes[dim] = end - first
        if memory is None:  # the first panel is the largest
            memory = cast(torch.Tensor, workspace(tokens, max(1, math.prod(sizes)) * tokens.element_size())).view(tokens.dtype)
        yield first, end, memory[: math.prod(sizes)].view(sizes)


def matmul(fill: Fill, rows: int, x: torch.Tensor, bias: torch.Tensor | None, relu: bool) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias, or torch.relu of that."""
    y = x.new_empty((x.shape[0], rows))
    for first, end, panel in panels(rows, x.shape[1], x):
        fill(panel, first)
        if bias is None:
            torch.mm(x, panel.t(), out=y[:, first:end])
        else:
            torch.addmm(bias[first:end], x, panel.t(), out=y[:, first:end])
    return y.relu_() if relu else y


def matmul_t(fill: Fill, cols: int, dy: torch.Tensor) -> torch.Tensor:
    """dx [tokens, cols] = dy W."""
    dx = dy.new_empty((dy.shape[0], cols))
    for first, end, panel in panels(dy.shape[1], cols, dy, dim=1):
        fill(panel, first)
        torch.mm(dy, panel, out=dx[:, first:end])
    return dx
