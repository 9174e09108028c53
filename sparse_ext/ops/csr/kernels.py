"""The CSR kernels as torch operators (`torch.ops.sparse_ext.csr_*`). `reference` has a PyTorch twin of each.

Shapes in this file: weight [capacity] holds the values of a CSR matrix [rows, cols]; row_ptr int32 [rows + 1];
col_idx int32 or uint16 [capacity], ascending inside a row; x [tokens, cols]; y, dy [tokens, rows]. Entries behind
row_ptr[rows] are unused. Wrong shapes raise ValueError, wrong dtypes TypeError, failed launches RuntimeError.
"""

from __future__ import annotations

import torch

from ..boundary import checks, views
from ..boundary.checks import check_dtype, check_entries, check_index, check_range, check_slots, check_values
from ..boundary.launch import backend_of, ready, workspace
from ..boundary.library import define
from .conversions import csr_transpose

_COLUMN_DTYPES = (torch.uint16, torch.int32)
# Where the tokens' sums fill so many registers at most, a CPU computes the input gradient by the matrix itself without bringing
# its values into the order of the transposed view. In one register that is 1.1 to 5 times as fast, in two about as fast or
# faster, in three slower (AVX2 and AVX-512, 512 to 2048 squared, 2 to 50 % density, one and two threads).
FEW_REGISTERS = 2


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
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
) -> None:
    """What the product dy W asks of its operands, the transposed view among them."""
    check_columns(op, "dy", dy, row_ptr.numel() - 1, "output")
    check_values(op, "dy", dy, weight=weight)
    check_index(op, dy, row_ptr=row_ptr, col_idx=col_idx, col_ptr=col_ptr, row_idx=row_idx, slot=slot)
    check_entries(op, "row_idx", row_idx.numel(), weight=weight, col_idx=col_idx, slot=slot)
    check_slots(op, slot, weight.numel())
    check_views(op, row_ptr, col_idx, col_ptr, row_idx, slot)


def check_views(op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, *transposed: torch.Tensor) -> None:
    """In debug mode: (col_ptr, row_idx, slot) is the transpose of (row_ptr, col_idx); either may be the one that is used."""
    if not checks.DEBUG:
        return
    cols = transposed[0].numel() - 1
    check_range(op, row_ptr, col_idx, cols)
    used = int(row_ptr[-1])
    own = csr_transpose.kernel(row_ptr, col_idx.int(), cols)
    if not all(torch.equal(a[:size].int(), b[:size]) for a, b, size in zip(transposed, own, (None, used, used), strict=True)):
        raise ValueError(
            f"{op}: expected col_ptr, row_idx and slot of the same matrix as row_ptr and col_idx, got another one's"
        )


def multiply_t(
    op: str,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
) -> torch.Tensor:
    """dy W of checked operands: by the transposed view or, of few tokens on a CPU, by the matrix itself."""
    backend, tokens = backend_of(op, dy), dy.shape[0]
    has_own_way = hasattr(backend.module, "csr_spmm_t")
    if not has_own_way or tokens * max(4, dy.itemsize) > FEW_REGISTERS * backend.module.register_bytes():
        return multiply(op, weight, col_ptr, row_idx, slot, dy, None, False)
    dtype, (rows, cols) = check_dtype(op, backend, "dy", dy), (row_ptr.numel() - 1, col_ptr.numel() - 1)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    dy, weight = ready(dy), ready(weight)
    dx, stream = dy.new_empty(tokens, cols), backend.stream(dy)
    w, dy_view = (weight.data_ptr(), dtype, views.pattern(row_ptr, col_idx, cols)), (dy.data_ptr(), dtype, tokens, rows)
    space = workspace(dy, backend.module.csr_spmm_t_workspace(w, dy_view, stream))
    backend.module.csr_spmm_t((dx.data_ptr(), dtype, tokens, cols), w, dy_view, views.address(space), stream)
    return dx


@define(
    "csr_spmm_t(Tensor weight, Tensor row_ptr, Tensor col_idx, Tensor col_ptr, Tensor row_idx, Tensor slot, Tensor dy)"
    " -> Tensor",
    flops=lambda weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, **_: 2 * count_entries(row_ptr, col_idx) * dy.shape[0],
)
def csr_spmm_t(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
) -> torch.Tensor:
    """dx [tokens, cols] = dy W: the input gradient. (col_ptr [cols + 1], row_idx, slot) is the transposed view."""
    check_matmul_t("csr_spmm_t", weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy)
    return multiply_t("csr_spmm_t", weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy)


@csr_spmm_t.fake
def _(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy):
    check_values("csr_spmm_t", "dy", dy, weight=weight)
    check_index("csr_spmm_t", dy, row_ptr=row_ptr, col_idx=col_idx, col_ptr=col_ptr, row_idx=row_idx, slot=slot)
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
