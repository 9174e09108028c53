"""The CSR kernels as torch operators (`torch.ops.sparse_ext.csr_*`). `reference` has a PyTorch twin of each.

Shapes in this file: weight [capacity] holds the values of a CSR matrix [rows, cols]; row_ptr int32 [rows + 1];
col_idx int32 or uint16 [capacity], ascending inside a row; x [tokens, cols]; y, dy [tokens, rows]. Entries behind
row_ptr[rows] are unused. Wrong shapes raise ValueError, wrong dtypes TypeError, failed launches RuntimeError.
"""

from __future__ import annotations

import torch

from ..boundary import views
from ..boundary.checks import check_dtype, check_entries, check_index, check_range, check_sizes, check_slots, check_values
from ..boundary.launch import backend_of, ready, workspace
from ..boundary.library import define

_COLUMN_DTYPES = (torch.uint16, torch.int32)


def count_entries(row_ptr: torch.Tensor, col_idx: torch.Tensor) -> int:
    """nnz, for counting FLOPs; the capacity where no number is behind the tensor (meta, or a compiler's)."""
    return int(row_ptr[-1]) if type(row_ptr) is torch.Tensor and not row_ptr.is_meta else col_idx.shape[0]


def check_columns(op: str, name: str, tensor: torch.Tensor, columns: int, what: str) -> None:
    """[any, columns]; `what` names the features that the columns are."""
    if tensor.dim() != 2 or tensor.shape[1] != columns:
        got = tensor.shape[1] if tensor.dim() == 2 else f"shape {tuple(tensor.shape)}"
        raise ValueError(f"{op}: expected {name} with {columns} columns (weight has {columns} {what} features), got {got}")


def multiply(
    op: str,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    slot: torch.Tensor | None,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    """The kernel behind both products, of checked operands; slot None is the weight itself, otherwise its transposed view."""
    backend = backend_of(op, x)
    dtype = check_dtype(op, backend, "x" if slot is None else "dy", x)
    (tokens, cols), rows = x.shape, row_ptr.numel() - 1
    row_ptr, col_idx, slot = row_ptr.contiguous(), col_idx.contiguous(), slot if slot is None else slot.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    x, weight = ready(x), ready(weight)
    bias = None if bias is None else ready(bias)
    y = x.new_empty(tokens, rows)  # a tuple would cost a third of a microsecond
    w = (weight.data_ptr(), dtype, views.pattern(row_ptr, col_idx, cols, slot))
    x_view, stream = (x.data_ptr(), dtype, tokens, cols), backend.stream(x)
    space = workspace(x, backend.module.csr_spmm_workspace(w, x_view, stream))
    y_view = (y.data_ptr(), dtype, tokens, rows)
    bias_address = 0 if bias is None else bias.data_ptr()
    backend.module.csr_spmm(y_view, w, x_view, bias_address, relu, views.address(space), stream)
    return y


def check_matmul(
    op: str,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """What every product x W^T + bias asks of its operands."""
    # Fast path for valid CPU operands: for tiny layers the checks below would take a tenth of the call.
    rows, capacity, dtype = row_ptr.numel() - 1, col_idx.numel(), x.dtype
    if (
        (x.is_cpu and weight.is_cpu and row_ptr.is_cpu and col_idx.is_cpu)
        and (x.dim() == 2 and weight.dim() == 1 and row_ptr.dim() == 1 and col_idx.dim() == 1)
        and (x.shape[1] == cols and weight.numel() == capacity and rows >= 0)
        and (weight.dtype is dtype and row_ptr.dtype is torch.int32 and col_idx.dtype in _COLUMN_DTYPES)
        and (bias is None or (bias.is_cpu and bias.dtype is dtype and bias.dim() == 1 and bias.numel() == rows))
    ):
        return
    check_columns(op, "x", x, cols, "input")
    check_values(op, "x", x, weight=weight, bias=bias)
    check_index(op, x, row_ptr=row_ptr, col_idx=col_idx)
    check_entries(op, "col_idx", col_idx.numel(), weight=weight)
    if bias is not None and bias.shape != (row_ptr.numel() - 1,):
        raise ValueError(f"{op}: expected bias of shape ({row_ptr.numel() - 1},), got {tuple(bias.shape)}")


@define(
    "csr_spmm(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor x, Tensor? bias, bool relu=False) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, cols, x, *_, **__: 2 * count_entries(row_ptr, col_idx) * x.shape[0],
)
def csr_spmm(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    relu: bool = False,
) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias: the forward product. Sums in float32 (float64 for float64), in column order.

    With `relu`, y is torch.relu of that.
    """
    check_matmul("csr_spmm", weight, row_ptr, col_idx, cols, x, bias)
    return multiply("csr_spmm", weight, row_ptr, col_idx, None, x, bias, relu)


@csr_spmm.fake
def _(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    check_values("csr_spmm", "x", x, weight=weight, bias=bias)
    check_index("csr_spmm", x, row_ptr=row_ptr, col_idx=col_idx)
    return x.new_empty((x.shape[0], row_ptr.shape[0] - 1))


def check_matmul_t(
    op: str,
    weight: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    rows: int,
    dy: torch.Tensor,
) -> None:
    """What the product dy W asks of its operands, the transposed view among them."""
    check_columns(op, "dy", dy, rows, "output")
    check_values(op, "dy", dy, weight=weight)
    check_index(op, dy, col_ptr=col_ptr, row_idx=row_idx, slot=slot)
    check_entries(op, "row_idx", row_idx.numel(), weight=weight, slot=slot)
    check_slots(op, slot, weight.numel())


@define(
    "csr_spmm_t(Tensor weight, Tensor col_ptr, Tensor row_idx, Tensor slot, int rows, Tensor dy) -> Tensor",
    flops=lambda weight, col_ptr, row_idx, slot, rows, dy, **_: 2 * count_entries(col_ptr, row_idx) * dy.shape[0],
)
def csr_spmm_t(
    weight: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    rows: int,
    dy: torch.Tensor,
) -> torch.Tensor:
    """dx [tokens, cols] = dy W: the input gradient, through the transposed view (col_ptr [cols + 1], row_idx, slot)."""
    op = "csr_spmm_t"
    check_matmul_t(op, weight, col_ptr, row_idx, slot, rows, dy)
    return multiply(op, weight, col_ptr, row_idx, slot, dy, None, False)


@csr_spmm_t.fake
def _(weight, col_ptr, row_idx, slot, rows, dy):
    check_values("csr_spmm_t", "dy", dy, weight=weight)
    check_index("csr_spmm_t", dy, col_ptr=col_ptr, row_idx=row_idx, slot=slot)
    return dy.new_empty((dy.shape[0], col_ptr.shape[0] - 1))


def check_grad_weight(
    op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor
) -> None:
    """What every product dy^T x at a pattern asks of its operands."""
    check_columns(op, "x", x, cols, "input")
    check_columns(op, "dy", dy, row_ptr.numel() - 1, "output")
    if x.shape[0] != dy.shape[0]:
        raise ValueError(f"{op}: expected x with {dy.shape[0]} tokens (as dy), got {x.shape[0]}")
    check_values(op, "dy", dy, x=x)
    check_index(op, x, row_ptr=row_ptr, col_idx=col_idx)


def sample(op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The kernel behind the weight gradient, of checked operands."""
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    backend = backend_of(op, x)
    dtype = check_dtype(op, backend, "x", x)
    dy, x = ready(dy), ready(x)
    dw = x.new_empty((col_idx.numel(),))
    pattern, stream, tokens = views.pattern(row_ptr, col_idx, cols), backend.stream(x), x.shape[0]
    x_view, dy_view = (x.data_ptr(), dtype, tokens, cols), (dy.data_ptr(), dtype, tokens, row_ptr.numel() - 1)
    space = workspace(x, backend.module.csr_sddmm_workspace(pattern, x_view, stream))
    backend.module.csr_sddmm(dw.data_ptr(), pattern, dy_view, x_view, views.address(space), stream)
    return dw


@define(
    "csr_sddmm(Tensor row_ptr, Tensor col_idx, int cols, Tensor dy, Tensor x) -> Tensor",
    flops=lambda row_ptr, col_idx, cols, dy, x, **_: 2 * count_entries(row_ptr, col_idx) * dy.shape[0],
)
def csr_sddmm(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dw [capacity] = (dy^T x) at the pattern, 0 behind it: the weight gradient, with no dense gradient in memory."""
    check_grad_weight("csr_sddmm", row_ptr, col_idx, cols, dy, x)
    return sample("csr_sddmm", row_ptr, col_idx, cols, dy, x)


@csr_sddmm.fake
def _(row_ptr, col_idx, cols, dy, x):
    check_values("csr_sddmm", "dy", dy, x=x)
    check_index("csr_sddmm", x, row_ptr=row_ptr, col_idx=col_idx)
    return x.new_empty((col_idx.shape[0],))


@define("csr_pack(Tensor dense, Tensor row_ptr, Tensor col_idx) -> Tensor")
def csr_pack(dense: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> torch.Tensor:
    """values [capacity] = dense [rows, cols] at the pattern, 0 behind it."""
    op = "csr_pack"
    if dense.dim() != 2 or dense.shape[0] != row_ptr.numel() - 1:
        raise ValueError(f"{op}: expected dense with {row_ptr.numel() - 1} rows, got shape {tuple(dense.shape)}")
    check_index(op, dense, row_ptr=row_ptr, col_idx=col_idx)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, dense.shape[1])
    backend = backend_of(op, dense)
    check_dtype(op, backend, "dense", dense)
    dense = ready(dense)
    values = dense.new_empty((col_idx.numel(),))
    pattern = views.pattern(row_ptr, col_idx, dense.shape[1])
    backend.module.csr_pack(values.data_ptr(), pattern, views.matrix(dense), backend.stream(dense))
    return values


@csr_pack.fake
def _(dense, row_ptr, col_idx):
    check_index("csr_pack", dense, row_ptr=row_ptr, col_idx=col_idx)
    return dense.new_empty((col_idx.shape[0],))


@define("csr_unpack(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols) -> Tensor")
def csr_unpack(weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> torch.Tensor:
    """The dense matrix [rows, cols], 0 outside the pattern."""
    op, rows = "csr_unpack", row_ptr.numel() - 1
    check_index(op, weight, row_ptr=row_ptr, col_idx=col_idx)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_entries(op, "col_idx", col_idx.numel(), weight=weight)
    check_range(op, row_ptr, col_idx, cols)
    backend = backend_of(op, weight)
    check_dtype(op, backend, "weight", weight)
    weight = ready(weight)
    dense = weight.new_empty((rows, cols))
    w = views.csr(weight, views.pattern(row_ptr, col_idx, cols))
    backend.module.csr_unpack(views.matrix(dense), w, 0, backend.stream(weight))
    return dense


@csr_unpack.fake
def _(weight, row_ptr, col_idx, cols):
    check_index("csr_unpack", weight, row_ptr=row_ptr, col_idx=col_idx)
    return weight.new_empty((row_ptr.shape[0] - 1, cols))


@define("csr_from_mask(Tensor mask, int capacity) -> (Tensor, Tensor)")
def csr_from_mask(mask: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(row_ptr, col_idx [capacity]) of a boolean mask [rows, cols] with at most `capacity` ones."""
    op = "csr_from_mask"
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: expected mask of dtype torch.bool, got {mask.dtype}")
    if mask.dim() != 2:
        raise ValueError(f"{op}: expected mask with 2 dimensions, got shape {tuple(mask.shape)}")
    check_sizes(op, mask.shape[0], mask.shape[1], capacity)
    if (nnz := int(mask.sum())) > capacity:
        raise ValueError(f"{op}: expected a mask with at most {capacity} ones (the capacity), got {nnz}")
    backend = backend_of(op, mask)
    mask = ready(mask)
    rows, cols = mask.shape
    row_ptr = torch.empty(rows + 1, dtype=torch.int32, device=mask.device)
    col_idx = torch.empty(capacity, dtype=torch.int32, device=mask.device)
    backend.module.csr_from_mask(views.pattern(row_ptr, col_idx, cols), views.matrix(mask), backend.stream(mask))
    return row_ptr, col_idx


@csr_from_mask.fake
def _(mask, capacity):
    check_sizes("csr_from_mask", *mask.shape, capacity)
    return mask.new_empty((mask.shape[0] + 1,), dtype=torch.int32), mask.new_empty((capacity,), dtype=torch.int32)


@define("csr_transpose(Tensor row_ptr, Tensor col_idx, int cols) -> (Tensor, Tensor, Tensor)")
def csr_transpose(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The transposed view (col_ptr [cols + 1], row_idx [capacity], slot [capacity]) of an int32 pattern.

    Entries are ordered by column, then row; slot says where each one's value is. Behind nnz all are 0.
    """
    op = "csr_transpose"
    check_index(op, row_ptr, row_ptr=row_ptr, col_idx=col_idx)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    if col_idx.dtype != torch.int32:
        raise TypeError(f"{op}: expected col_idx of dtype torch.int32, got {col_idx.dtype}")
    check_sizes(op, row_ptr.numel() - 1, cols, col_idx.numel())
    check_range(op, row_ptr, col_idx, cols)
    backend = backend_of(op, row_ptr)
    col_ptr = row_ptr.new_empty((cols + 1,))
    row_idx, slot = torch.empty_like(col_idx), torch.empty_like(col_idx)
    pattern, stream = views.pattern(row_ptr, col_idx, cols), backend.stream(row_ptr)
    space = workspace(row_ptr, backend.module.csr_transpose_workspace(pattern, stream))
    out = views.pattern(col_ptr, row_idx, row_ptr.numel() - 1, slot)
    backend.module.csr_transpose(out, pattern, views.address(space), stream)
    return col_ptr, row_idx, slot


@csr_transpose.fake
def _(row_ptr, col_idx, cols):
    return row_ptr.new_empty((cols + 1,)), torch.empty_like(col_idx), torch.empty_like(col_idx)
