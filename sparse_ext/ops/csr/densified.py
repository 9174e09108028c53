"""The three products with a CSR matrix unpacked to a dense one, panel by panel: what `layout="auto"` falls back to."""

from __future__ import annotations

from typing import Any

import torch

from .. import panels
from ..boundary import views
from ..boundary.checks import check_dtype, check_entries, check_index, check_range, check_values
from ..boundary.launch import backend_of, ready
from ..boundary.library import define
from .kernels import check_columns, check_grad_weight, check_matmul


def _unpack(
    panel: torch.Tensor,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    first_row: int = 0,
    first_col: int = 0,
) -> None:
    """The part of the matrix that the panel holds, from that row and column on."""
    (rows, cols), backend = panel.shape, backend_of("csr_unpack", weight)
    pattern = views.pattern(row_ptr[first_row : first_row + rows + 1], col_idx, first_col + cols)
    backend.module.csr_unpack(views.matrix(panel), views.csr(weight, pattern), first_col, backend.stream(weight))


def _pack(values: torch.Tensor, panel: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, first: int) -> None:
    """values at the entries of the panel's rows, and 0 behind the last row's."""
    backend, last = backend_of("csr_pack", values), first + panel.shape[0]
    # The kernel clears from the last entry to `end`: what lies there belongs to later panels, except behind the last one.
    end = col_idx.numel() if last == row_ptr.numel() - 1 else int(row_ptr[last])
    pattern = views.pattern(row_ptr[first : last + 1], col_idx[:end], panel.shape[1])
    backend.module.csr_pack(values.data_ptr(), pattern, views.matrix(panel), backend.stream(values))


def _checked(
    op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """row_ptr and col_idx as kernels need them."""
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    check_dtype(op, backend_of(op, values), "x", values)
    return row_ptr, col_idx


# ---- the products, of checked operands -----------------------------------------------------------------------------------


def matmul(
    op: str,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    row_ptr, col_idx = _checked(op, row_ptr, col_idx, cols, x)
    weight = ready(weight)

    def fill(panel: torch.Tensor, first: int) -> None:
        _unpack(panel, weight, row_ptr, col_idx, first_row=first)

    return panels.matmul(fill, row_ptr.numel() - 1, x, bias, relu)


def matmul_t(
    op: str, weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor
) -> torch.Tensor:
    row_ptr, col_idx = _checked(op, row_ptr, col_idx, cols, dy)
    weight = ready(weight)

    def fill(panel: torch.Tensor, first: int) -> None:
        _unpack(panel, weight, row_ptr, col_idx, first_col=first)

    return panels.matmul_t(fill, cols, dy)


def grad_weight(
    op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    rows = row_ptr.numel() - 1
    row_ptr, col_idx = _checked(op, row_ptr, col_idx, cols, x)
    values = x.new_empty((col_idx.numel(),))
    if not rows:
        values.zero_()
    for first, end, panel in panels.panels(rows, cols, x):
        _pack(values, torch.mm(dy[:, first:end].t(), x, out=panel), row_ptr, col_idx, first)
    return values


# ---- as operators ----------------------------------------------------------------------------------------------------------


def _flops(weight: Any, row_ptr: Any, col_idx: Any, cols: int, x: Any, *args: Any, **kwargs: Any) -> int:
    return int(2 * x.shape[0] * (row_ptr.shape[0] - 1) * cols)


@define(
    "densified_matmul(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor x, Tensor? bias, bool relu=False)"
    " -> Tensor",
    flops=_flops,
)
def densified_matmul(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    relu: bool = False,
) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias, or torch.relu of that, as `csr_spmm`."""
    check_matmul("densified_matmul", weight, row_ptr, col_idx, cols, x, bias)
    return matmul("densified_matmul", weight, row_ptr, col_idx, cols, x, bias, relu)


@densified_matmul.fake
def _(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    check_values("densified_matmul", "x", x, weight=weight, bias=bias)
    return x.new_empty((x.shape[0], row_ptr.shape[0] - 1))


@define("densified_matmul_t(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor dy) -> Tensor", flops=_flops)
def densified_matmul_t(
    weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor
) -> torch.Tensor:
    """dx [tokens, cols] = dy W, as `csr_spmm_t`, but by the matrix's own row_ptr and col_idx."""
    op = "densified_matmul_t"
    check_columns(op, "dy", dy, row_ptr.numel() - 1, "output")
    check_values(op, "dy", dy, weight=weight)
    check_index(op, dy, row_ptr=row_ptr, col_idx=col_idx)
    check_entries(op, "col_idx", col_idx.numel(), weight=weight)
    return matmul_t(op, weight, row_ptr, col_idx, cols, dy)


@densified_matmul_t.fake
def _(weight, row_ptr, col_idx, cols, dy):
    check_values("densified_matmul_t", "dy", dy, weight=weight)
    return dy.new_empty((dy.shape[0], cols))


@define(
    "densified_grad_weight(Tensor row_ptr, Tensor col_idx, int cols, Tensor dy, Tensor x) -> Tensor",
    flops=lambda row_ptr, col_idx, cols, dy, x, **_: 2 * dy.numel() * x.shape[1],
)
def densified_grad_weight(
    row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """dw [capacity] = (dy^T x) at the pattern, 0 behind it, as `csr_sddmm`."""
    check_grad_weight("densified_grad_weight", row_ptr, col_idx, cols, dy, x)
    return grad_weight("densified_grad_weight", row_ptr, col_idx, cols, dy, x)


@densified_grad_weight.fake
def _(row_ptr, col_idx, cols, dy, x):
    check_values("densified_grad_weight", "dy", dy, x=x)
    return x.new_empty((col_idx.shape[0],))
