"""How tensors leave Python: tuples of pointers and sizes, which the launchers read as views (csrc/python/arguments.h).

A pointer is 0 where there is no tensor. The tensors are contiguous, aligned and alive until the launcher has returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .launch import DTYPES

Matrix = tuple[int, int, int, int]
Pattern = tuple[int, int, int, bool, int, int, int]
Csr = tuple[int, int, Pattern]
Nm24 = tuple[int, int, int, int, int]


def address(tensor: torch.Tensor | None) -> int:
    """The pointer, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def matrix(tensor: torch.Tensor) -> Matrix:
    """A matrix [rows, cols]."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], *tensor.shape


def pattern(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, slot: torch.Tensor | None = None) -> Pattern:
    """Where the entries of a CSR matrix are; its capacity is the length of col_idx."""
    return (
        row_ptr.data_ptr(), col_idx.data_ptr(), 0 if slot is None else slot.data_ptr(), col_idx.dtype is torch.uint16,
        row_ptr.numel() - 1, cols, col_idx.numel(),
    )  # fmt: skip


def csr(values: torch.Tensor, where: Pattern) -> Csr:
    """A CSR matrix."""
    return values.data_ptr(), DTYPES[values.dtype], where


def nm24(values: torch.Tensor, ids: torch.Tensor, rows: int, cols: int) -> Nm24:
    """A 2:4 matrix."""
    return values.data_ptr(), DTYPES[values.dtype], ids.data_ptr(), rows, cols


def conv2d(product: Any, batch: int, height: int, width: int, out: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a convolution (csrc/common/conv.h) of images of this size, and of results of the size `out`.

    A stride is no longer than the padded image, where nothing follows: the input gradient has a phase for each of its pixels.
    """
    sizes = zip(product.stride, (height, width), product.padding, strict=True)
    stride = (min(step, max(1, size + 2 * padding)) for step, size, padding in sizes)
    return (
        batch, product.groups, product.channels, height, width, product.rows, *out,
        *product.kernel_size, *stride, *product.padding, *product.dilation,
    )  # fmt: skip
