"""The CSR operators: entry by entry, or through the dense matrix."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def entries(row_ptr: torch.Tensor, col_idx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column (int64) of each of the nnz entries."""
    rows = torch.repeat_interleave(torch.arange(row_ptr.numel() - 1, device=row_ptr.device), row_ptr.diff().long())
    return rows, col_idx[: rows.numel()].long()


def padded(values: torch.Tensor, capacity: int, fill: int = 0) -> torch.Tensor:
    return torch.cat([values, values.new_full((capacity - values.numel(),), fill)])


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def csr_pack(dense: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> torch.Tensor:
    return padded(dense[entries(row_ptr, col_idx)], col_idx.numel())


def csr_unpack(weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> torch.Tensor:
    dense = weight.new_zeros((row_ptr.numel() - 1, cols))
    rows, columns = entries(row_ptr, col_idx)
    dense[rows, columns] = weight[: rows.numel()]
    return dense


def csr_spmm(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    """By absence, not by zeros: only stored entries meet x, so Inf and NaN in x reach y through them alone."""
    dtype = sum_dtype(x.dtype)
    rows, columns = entries(row_ptr, col_idx)
    terms = x[:, columns].to(dtype) * weight[: rows.numel()].to(dtype)
    y = x.new_zeros((x.shape[0], row_ptr.numel() - 1), dtype=dtype).index_add_(1, rows, terms)
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)


def csr_spmm_t(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy):
    return csr_spmm(weight[slot.long()], col_ptr, row_idx, row_ptr.numel() - 1, dy, None)


def csr_sddmm(row_ptr, col_idx, cols, dy, x):
    dtype = sum_dtype(x.dtype)
    rows, columns = entries(row_ptr, col_idx)
    dw = (dy[:, rows].to(dtype) * x[:, columns].to(dtype)).sum(0)
    return padded(dw.to(x.dtype), col_idx.numel())


def _out_size(size, kernel_size, stride, padding, dilation, groups):
    numbers = zip(size, kernel_size, stride, padding, dilation, strict=True)
    return [(length + 2 * pad - d * (kernel - 1) - 1) // step + 1 for length, kernel, step, pad, d in numbers]


def _group_of(rows, row_count, groups):
    return torch.div(rows * groups, row_count, rounding_mode="floor")


def _met(x, rows, columns, row_count, kernel_size, stride, padding, dilation, groups):
    """What each entry meets in x, [batch, entries, pixels]; and whether it meets x at all or padding, [1, entries, pixels]."""
    if not x.numel():
        pixels = math.prod(_out_size(x.shape[2:], kernel_size, stride, padding, dilation, groups))
        return x.new_zeros((x.shape[0], rows.numel(), pixels)), x.new_zeros((1, rows.numel(), pixels), dtype=torch.bool)
    met, exists = (F.unfold(a, kernel_size, dilation, padding, stride) for a in (x, torch.ones_like(x[:1])))
    places = _group_of(rows, row_count, groups) * (met.shape[1] // groups) + columns
    return met[:, places], exists[:, places] > 0


def csr_conv2d(weight, row_ptr, col_idx, cols, x, bias, kernel_size, stride, padding, dilation, groups, relu=False):
    """Entry by entry: Inf and NaN that no entry meets reach no output, and no entry meets padding."""
    window = kernel_size, stride, padding, dilation, groups
    dtype, row_count = sum_dtype(x.dtype), row_ptr.numel() - 1
    rows, columns = entries(row_ptr, col_idx)
    met, exists = _met(x.to(dtype), rows, columns, row_count, *window)
    terms = (met * weight[: rows.numel(), None].to(dtype)).where(exists, met.new_zeros(()))
    y = met.new_zeros((x.shape[0], row_count, met.shape[2])).index_add_(1, rows, terms)
    y = y if bias is None else y + bias[:, None].to(dtype)
    return (y.relu() if relu else y).to(x.dtype).view(x.shape[0], row_count, *_out_size(x.shape[2:], *window))


def csr_conv2d_t(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, size, kernel_size, stride, padding, dilation, groups):
    """Folding leaves out what falls into padding."""
    dtype, row_count, cols = sum_dtype(dy.dtype), row_ptr.numel() - 1, col_ptr.numel() - 1
    rows, columns = entries(row_ptr, col_idx)
    pixels = dy.to(dtype).flatten(2)
    unfolded = pixels.new_zeros((dy.shape[0], groups * cols, pixels.shape[2]))
    terms = pixels[:, rows] * weight[: rows.numel(), None].to(dtype)
    unfolded.index_add_(1, _group_of(rows, row_count, groups) * cols + columns, terms)
    if not unfolded.numel() or 0 in size:
        return dy.new_zeros((dy.shape[0], groups * cols // math.prod(kernel_size), *size))
    return F.fold(unfolded, size, kernel_size, dilation, padding, stride).to(dy.dtype)


def csr_conv2d_grad_weight(row_ptr, col_idx, cols, dy, x, *window):
    dtype = sum_dtype(x.dtype)
    rows, columns = entries(row_ptr, col_idx)
    met, exists = _met(x.to(dtype), rows, columns, row_ptr.numel() - 1, *window)
    terms = (dy.to(dtype).flatten(2)[:, rows] * met).where(exists, met.new_zeros(()))
    return padded(terms.sum((0, 2)).to(x.dtype), col_idx.numel())


def auto_conv2d(*arguments):
    return csr_conv2d(*arguments)


def auto_conv2d_t(*arguments):
    return csr_conv2d_t(*arguments)


def auto_conv2d_grad_weight(*arguments):
    return csr_conv2d_grad_weight(*arguments)


def densified_matmul(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    """By zeros, not by absence: these meet Inf and NaN in x."""
    dtype = sum_dtype(x.dtype)
    y = x.to(dtype) @ csr_unpack(weight, row_ptr, col_idx, cols).to(dtype).t()
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)


def densified_matmul_t(weight, row_ptr, col_idx, cols, dy):
    dtype = sum_dtype(dy.dtype)
    return (dy.to(dtype) @ csr_unpack(weight, row_ptr, col_idx, cols).to(dtype)).to(dy.dtype)


def densified_grad_weight(row_ptr, col_idx, cols, dy, x):
    return csr_sddmm(row_ptr, col_idx, cols, dy, x)


def auto_spmm(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    return csr_spmm(weight, row_ptr, col_idx, cols, x, bias, relu)


def auto_spmm_t(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy):
    return csr_spmm_t(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy)


def auto_sddmm(row_ptr, col_idx, cols, dy, x):
    return csr_sddmm(row_ptr, col_idx, cols, dy, x)


def csr_from_mask(mask: torch.Tensor, capacity: int):
    row_ptr = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return row_ptr.int(), padded(mask.nonzero()[:, 1].int(), capacity)


def csr_transpose(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int):
    rows, columns = entries(row_ptr, col_idx)
    order = torch.argsort(columns, stable=True)  # entries are by row already
    counts = torch.bincount(columns, minlength=cols)
    col_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    capacity = col_idx.numel()
    return col_ptr.int(), padded(rows[order].int(), capacity), padded(order.int(), capacity)
