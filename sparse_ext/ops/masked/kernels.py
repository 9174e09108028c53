"""The products of a matrix that is stored at full length, with a mask (`torch.ops.sparse_ext.masked_*`): dense ones.

A CPU has kernels of its own, which read the mask as they read the matrix. Elsewhere the matrix is written out at its mask and
multiplied by torch (panels.py).

Shapes in this file: weight [rows * cols]; bits uint8 [ceil(rows * cols / 8)], where position p is bit p % 8 of byte p / 8;
x [tokens, cols]; y, dy [tokens, rows]. What the weight holds where the bit is 0 is never used. Wrong shapes raise ValueError,
wrong dtypes TypeError, failed launches RuntimeError.
"""

from __future__ import annotations

import torch

from .. import panels
from ..boundary import views
from ..boundary.checks import check_dtype, check_values
from ..boundary.launch import Backend, backend_of, ready, workspace
from ..boundary.library import define


def _check_bits(op: str, bits: torch.Tensor, like: torch.Tensor, positions: int) -> None:
    if bits.dtype is not torch.uint8:
        raise TypeError(f"{op}: expected bits of dtype torch.uint8, got {bits.dtype}")
    if bits.shape != (-(-positions // 8),):
        raise ValueError(
            f"{op}: expected bits of shape ({-(-positions // 8)},) for {positions} positions, got {tuple(bits.shape)}"
        )
    if bits.device != like.device:
        raise ValueError(f"{op}: expected bits on {like.device} (as the values), got {bits.device}")


def _check_tokens(op: str, **tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{op}: expected {name} [tokens, features], got shape {tuple(tensor.shape)}")


def _check_weight(op: str, weight: torch.Tensor, rows: int, cols: int) -> None:
    if rows < 0 or cols < 0 or weight.shape != (rows * cols,):
        raise ValueError(f"{op}: expected weight of shape ({rows} * {cols},), got {tuple(weight.shape)}")


def _select(panel: torch.Tensor, matrix: torch.Tensor, bits: torch.Tensor, first_row: int = 0, first_col: int = 0) -> None:
    """Writes the panel of a matrix [rows, cols] from there on, at its mask; it may be whole rows of the matrix itself."""
    backend = backend_of("masked_select", matrix)
    check_dtype("masked_select", backend, "values", matrix)
    backend.module.masked_select(
        views.matrix(panel), views.matrix(matrix), bits.data_ptr(), first_row, first_col, backend.stream(matrix)
    )


def _by_torch(op: str, backend: Backend, x: torch.Tensor) -> bool:
    """Whether torch's product is used: on a GPU, and for bfloat16 on a CPU that has instructions for it."""
    module = backend.module
    return not hasattr(module, op) or (x.dtype is torch.bfloat16 and module.isa() == "v4_bf16")


@define("masked_select(Tensor values, Tensor bits) -> Tensor")
def masked_select(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """values, of any shape, where the bit of their position is 1, and 0 elsewhere; a new tensor."""
    _check_bits("masked_select", bits, values, values.numel())
    values = ready(values)
    selected = torch.empty_like(values)
    _select(selected.view(1, values.numel()), values.view(1, values.numel()), bits.contiguous())
    return selected


@masked_select.fake
def _(values, bits):
    _check_bits("masked_select", bits, values, values.numel())
    return values.new_empty(values.shape)


@define(
    "masked_spmm(Tensor weight, Tensor bits, int rows, Tensor x, Tensor? bias, bool relu=False) -> Tensor",
    flops=lambda weight, bits, rows, x, *_, **__: 2 * x.shape[0] * weight.shape[0],
)
def masked_spmm(
    weight: torch.Tensor, bits: torch.Tensor, rows: int, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias, or torch.relu of that."""
    op = "masked_spmm"
    _check_tokens(op, x=x)
    _check_weight(op, weight, rows, x.shape[1])
    _check_bits(op, bits, weight, weight.numel())
    check_values(op, "x", x, weight=weight, bias=bias)
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"{op}: expected bias of shape ({rows},), got {tuple(bias.shape)}")
    backend = backend_of(op, x)
    check_dtype(op, backend, "x", x)
    matrix, bits = ready(weight).view(rows, x.shape[1]), bits.contiguous()
    if _by_torch(op, backend, x):
        return panels.matmul(lambda panel, first: _select(panel, matrix, bits, first_row=first), rows, x, bias, relu)
    x, bias, y = ready(x), None if bias is None else ready(bias), x.new_empty(x.shape[0], rows)
    w, x_view, stream = views.matrix(matrix), views.matrix(x), backend.stream(x)
    space = workspace(x, backend.module.masked_spmm_workspace(w, x_view, stream))
    backend.module.masked_spmm(
        views.matrix(y), w, bits.data_ptr(), x_view, views.address(bias), relu, views.address(space), stream
    )
    return y


@masked_spmm.fake
def _(weight, bits, rows, x, bias, relu=False):
    check_values("masked_spmm", "x", x, weight=weight, bias=bias)
    return x.new_empty((x.shape[0], rows))


@define(
    "masked_spmm_t(Tensor weight, Tensor bits, int cols, Tensor dy) -> Tensor",
    flops=lambda weight, bits, cols, dy, **_: 2 * dy.shape[0] * weight.shape[0],
)
def masked_spmm_t(weight: torch.Tensor, bits: torch.Tensor, cols: int, dy: torch.Tensor) -> torch.Tensor:
    """dx [tokens, cols] = dy W."""
    op = "masked_spmm_t"
    _check_tokens(op, dy=dy)
    _check_weight(op, weight, dy.shape[1], cols)
    _check_bits(op, bits, weight, weight.numel())
    check_values(op, "dy", dy, weight=weight)
    backend = backend_of(op, dy)
    check_dtype(op, backend, "dy", dy)
    matrix, bits = ready(weight).view(dy.shape[1], cols), bits.contiguous()
    if _by_torch(op, backend, dy):
        return panels.matmul_t(lambda panel, first: _select(panel, matrix, bits, first_col=first), cols, dy)
    dy, dx = ready(dy), dy.new_empty(dy.shape[0], cols)
    w, dy_view, stream = views.matrix(matrix), views.matrix(dy), backend.stream(dy)
    space = workspace(dy, backend.module.masked_spmm_t_workspace(w, dy_view, stream))
    backend.module.masked_spmm_t(views.matrix(dx), w, bits.data_ptr(), dy_view, views.address(space), stream)
    return dx


@masked_spmm_t.fake
def _(weight, bits, cols, dy):
    check_values("masked_spmm_t", "dy", dy, weight=weight)
    return dy.new_empty((dy.shape[0], cols))


@define(
    "masked_sddmm(Tensor bits, Tensor dy, Tensor x) -> Tensor",
    flops=lambda bits, dy, x, **_: 2 * dy.shape[0] * dy.shape[1] * x.shape[1],
)
def masked_sddmm(bits: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dw [rows * cols] = dy^T x at the mask, 0 elsewhere."""
    op = "masked_sddmm"
    _check_tokens(op, dy=dy, x=x)
    check_values(op, "x", x, dy=dy)
    if dy.shape[0] != x.shape[0]:
        raise ValueError(f"{op}: expected dy with {x.shape[0]} tokens (as x), got {dy.shape[0]}")
    rows, cols = dy.shape[1], x.shape[1]
    _check_bits(op, bits, x, rows * cols)
    backend = backend_of(op, x)
    check_dtype(op, backend, "x", x)
    dw, bits = x.new_empty(rows, cols), bits.contiguous()
    if _by_torch(op, backend, x):
        for first, end in panels.bounds(rows, cols, x):
            _select(torch.mm(dy[:, first:end].t(), x, out=dw[first:end]), dw, bits, first_row=first)
        return dw.view(-1)
    x, dy = ready(x), ready(dy)
    x_view, dy_view, stream = views.matrix(x), views.matrix(dy), backend.stream(x)
    space = workspace(x, backend.module.masked_sddmm_workspace(dy_view, x_view, stream))
    backend.module.masked_sddmm(views.matrix(dw), bits.data_ptr(), dy_view, x_view, views.address(space), stream)
    return dw.view(-1)


@masked_sddmm.fake
def _(bits, dy, x):
    check_values("masked_sddmm", "x", x, dy=dy)
    return x.new_empty((dy.shape[1] * x.shape[1],))
