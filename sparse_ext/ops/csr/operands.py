"""`CsrOperands`: what the kernels of a CSR matrix read."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..product import Product
from . import conversions


class CsrOperands(NamedTuple):
    """Attributes:
    row_ptr: int32 [rows + 1], the pattern's.
    col_idx: uint16 [capacity] if cols <= 65536, else int32.
    col_ptr: int32 [cols + 1]: column c of the transpose owns the entries col_ptr[c] to col_ptr[c + 1].
    row_idx: uint16 [capacity] if rows <= 65536, else int32: the row of each entry of the transpose.
    slot: int32 [capacity]: the index of its value in the weight. Values are stored only once.
    """

    row_ptr: torch.Tensor
    col_idx: torch.Tensor
    col_ptr: torch.Tensor
    row_idx: torch.Tensor
    slot: torch.Tensor


def packed(product: Product, weight: torch.Tensor, operands: CsrOperands, dtype: torch.dtype) -> torch.Tensor:
    """The part of a dense weight that products take."""
    dense = weight.view(product.rows, product.cols).to(dtype)
    return conversions.csr_pack.call(dense, operands.row_ptr, operands.col_idx)
