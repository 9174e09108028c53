"""Parts of a weight that are any of its slots: their gradient is a product sampled at their positions."""

from __future__ import annotations

from typing import Any

import torch

from ..boundary.checks import lacking
from ..part import PARTS, Part, _of_any_length
from ..product import Conv2d
from . import conv, kernels
from .layout import MAX_16BIT


def slots_part(product: Any, positions: torch.Tensor, slots: torch.Tensor) -> Part:
    """Some slots of a weight.

    Args:
        positions: int64, of each of these slots r * cols + c; no two are the same.
        slots: int64, their indices.
    """
    positions, order = positions.sort()
    first = torch.arange(product.rows + 1, device=positions.device) * product.cols
    row_ptr = torch.searchsorted(positions, first, out_int32=True)
    col_idx = (positions % max(1, product.cols)).to(torch.uint16 if product.cols <= MAX_16BIT else torch.int32)
    return Part("slots", (row_ptr, _of_any_length(col_idx), _of_any_length(slots[order].contiguous())))


def _gradient_of_slots(
    product: Any,
    length: int,
    dy: torch.Tensor,
    x: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """By the sampled product; where no kernel takes the dtype, the dense gradient's part."""
    index = row_ptr, col_idx, product.cols, dy, x
    if lacking(x.dtype, x.device) is not None:
        rows = torch.searchsorted(row_ptr[1:], torch.arange(slots.shape[0], device=x.device), right=True)
        values = product.dense_grad(dy, x)[rows, col_idx.to(torch.int64)]
    elif isinstance(product, Conv2d):
        values = conv.csr_conv2d_grad_weight.call(*index, *product.window)
    else:
        values = kernels.csr_sddmm.call(*index)
    return values.new_zeros(length).index_copy_(0, slots, values)


PARTS["slots"] = _gradient_of_slots
