"""Between dense matrices, masks and CSR patterns, as torch operators. Shapes and errors are those of kernels.py."""

from __future__ import annotations

import torch

from ..boundary import views
from ..boundary.checks import check_dtype, check_entries, check_index, check_range, check_sizes
from ..boundary.launch import backend_of, ready, workspace
from ..boundary.library import define


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
