"""A layout is five verbs on (weight, pattern); LAYOUTS is the table that modules, tests and benches go through."""

from __future__ import annotations

from typing import Protocol

import torch

from . import csr
from .types import Pattern


class Layout(Protocol):
    """What a layout offers. weight is 1-D [capacity]; dense, mask [rows, cols]; x [tokens, cols]; dy [tokens, rows]."""

    name: str

    @staticmethod
    def pack(dense: torch.Tensor, pattern: Pattern) -> torch.Tensor: ...
    @staticmethod
    def unpack(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor: ...
    @staticmethod
    def matmul(weight: torch.Tensor, pattern: Pattern, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor: ...
    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: Pattern, dy: torch.Tensor) -> torch.Tensor: ...
    @staticmethod
    def grad_weight(pattern: Pattern, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor: ...


class Csr:
    """Compressed sparse rows: any pattern; pays at 80 % zeros and more."""

    name = "csr"

    @staticmethod
    def pack(dense: torch.Tensor, pattern: Pattern) -> torch.Tensor:
        if dense.shape != (pattern.rows, pattern.cols):
            raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")
        return csr.csr_pack(dense, pattern.row_ptr, pattern.col_idx)

    @staticmethod
    def unpack(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
        return csr.csr_unpack(weight, pattern.row_ptr, pattern.col_idx, pattern.cols)

    @staticmethod
    def matmul(weight: torch.Tensor, pattern: Pattern, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return csr.csr_spmm.call(weight, pattern.offsets, pattern.columns, pattern.cols, x, bias)

    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: Pattern, dy: torch.Tensor) -> torch.Tensor:
        return csr.csr_spmm_t.call(weight, pattern.col_ptr, pattern.row_ids, pattern.slot, pattern.rows, dy)

    @staticmethod
    def grad_weight(pattern: Pattern, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return csr.csr_sddmm.call(pattern.offsets, pattern.columns, pattern.cols, dy, x)


# "auto" stores CSR and is free to choose another kernel per product.
LAYOUTS: dict[str, type[Layout]] = {"csr": Csr, "auto": Csr}


def layout_named(name: str) -> type[Layout]:
    """The layout of that name; ValueError names the ones there are."""
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ValueError(f"expected layout to be one of {', '.join(map(repr, LAYOUTS))}, got {name!r}")
    return layout
