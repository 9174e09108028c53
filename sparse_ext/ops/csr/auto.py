"""The products of layout "auto": by `csr_spmm` and `csr_sddmm`, or with the matrix unpacked, as was measured to be faster.

Each operator chooses when it runs, where sizes are numbers: a compiled or exported program serves every number of tokens.
"""

from __future__ import annotations

import torch

from ..auto import POLICY
from ..boundary.launch import reading_waits
from ..boundary.library import define
from . import densified, kernels


def _is_dense(product: str, tokens: torch.Tensor, cols: int, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> bool:
    """Whether a product with so many tokens is done densely. On CUDA the capacity stands for nnz, which is on the device."""
    entries = col_idx.shape[0] if reading_waits(row_ptr) else kernels.count_entries(row_ptr, col_idx)
    return POLICY.is_dense(product, tokens, row_ptr.shape[0] - 1, cols, entries)


def _flops(product: str, tokens: torch.Tensor, cols: int, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> int:
    rows = row_ptr.shape[0] - 1
    dense = _is_dense(product, tokens, cols, row_ptr, col_idx)
    return 2 * tokens.shape[0] * (rows * cols if dense else kernels.count_entries(row_ptr, col_idx))


@define(
    "auto_spmm(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor x, Tensor? bias, bool relu=False) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, cols, x, *_, **__: _flops("matmul", x, cols, row_ptr, col_idx),
)
def auto_spmm(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    relu: bool = False,
) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias, or torch.relu of that, as `csr_spmm`."""
    op = "auto_spmm"
    kernels.check_matmul(op, weight, row_ptr, col_idx, cols, x, bias)
    if _is_dense("matmul", x, cols, row_ptr, col_idx):
        return densified.matmul(op, weight, row_ptr, col_idx, cols, x, bias, relu)
    return kernels.multiply(op, weight, row_ptr, col_idx, None, x, bias, relu)


@auto_spmm.fake
def _(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    return x.new_empty((x.shape[0], row_ptr.shape[0] - 1))


@define(
    "auto_spmm_t(Tensor weight, Tensor row_ptr, Tensor col_idx, Tensor col_ptr, Tensor row_idx, Tensor slot, Tensor dy)"
    " -> Tensor",
    flops=lambda weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, **_: _flops(
        "matmul_t", dy, col_ptr.shape[0] - 1, row_ptr, col_idx
    ),
)
def auto_spmm_t(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
) -> torch.Tensor:
    """dx [tokens, cols] = dy W, as `csr_spmm_t`."""
    op, cols = "auto_spmm_t", col_ptr.numel() - 1
    kernels.check_matmul_t(op, weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy)
    if _is_dense("matmul_t", dy, cols, row_ptr, col_idx):
        return densified.matmul_t(op, weight, row_ptr, col_idx, cols, dy)
    return kernels.multiply_t(op, weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy)


@auto_spmm_t.fake
def _(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy):
    return dy.new_empty((dy.shape[0], col_ptr.shape[0] - 1))


@define(
    "auto_sddmm(Tensor row_ptr, Tensor col_idx, int cols, Tensor dy, Tensor x) -> Tensor",
    flops=lambda row_ptr, col_idx, cols, dy, x, **_: _flops("grad_weight", x, cols, row_ptr, col_idx),
)
def auto_sddmm(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dw [capacity] = (dy^T x) at the pattern, 0 behind it, as `csr_sddmm`."""
    op = "auto_sddmm"
    kernels.check_grad_weight(op, row_ptr, col_idx, cols, dy, x)
    product = densified.grad_weight if _is_dense("grad_weight", x, cols, row_ptr, col_idx) else kernels.sample
    return product(op, row_ptr, col_idx, cols, dy, x)


@auto_sddmm.fake
def _(row_ptr, col_idx, cols, dy, x):
    return x.new_empty((col_idx.shape[0],))
