"""A layout is five verbs on (weight, pattern); LAYOUTS is the table that modules, tests and benches go through."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from .csr import kernels as csr
from .csr import densified
from .auto import dense_is_faster
from .csr.pattern import CsrPattern
from .nm24.layout import Nm24
from .pattern import Pattern


class Layout(Protocol):
    """What a layout offers. weight is 1-D [capacity]; dense, mask [rows, cols]; x [tokens, cols]; dy [tokens, rows]."""

    name: str
    pattern: type[Pattern]  # the class of its patterns

    @staticmethod
    def pack(dense: torch.Tensor, pattern: Any) -> torch.Tensor: ...
    @staticmethod
    def unpack(weight: torch.Tensor, pattern: Any) -> torch.Tensor: ...
    @staticmethod
    def matmul(
        weight: torch.Tensor, pattern: Any, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
    ) -> torch.Tensor: ...
    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: Any, dy: torch.Tensor) -> torch.Tensor: ...
    @staticmethod
    def grad_weight(pattern: Any, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor: ...


class Csr:
    """Compressed sparse rows: any pattern; pays at 80 % zeros and more."""

    name = "csr"
    pattern: type[Pattern] = CsrPattern

    @staticmethod
    def pack(dense: torch.Tensor, pattern: CsrPattern) -> torch.Tensor:
        if dense.shape != (pattern.rows, pattern.cols):
            raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")
        return csr.csr_pack(dense, pattern.row_ptr, pattern.col_idx)

    @staticmethod
    def unpack(weight: torch.Tensor, pattern: CsrPattern) -> torch.Tensor:
        return csr.csr_unpack(weight, pattern.row_ptr, pattern.col_idx, pattern.cols)

    @staticmethod
    def matmul(
        weight: torch.Tensor, pattern: CsrPattern, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
    ) -> torch.Tensor:
        return csr.csr_spmm.call(weight, pattern.offsets, pattern.columns, pattern.cols, x, bias, relu)

    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: CsrPattern, dy: torch.Tensor) -> torch.Tensor:
        return csr.csr_spmm_t.call(weight, pattern.col_ptr, pattern.row_ids, pattern.slot, pattern.rows, dy)

    @staticmethod
    def grad_weight(pattern: CsrPattern, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return csr.csr_sddmm.call(pattern.offsets, pattern.columns, pattern.cols, dy, x)


class Auto(Csr):
    """CSR storage; each product unpacks the matrix and multiplies densely where that was measured to be faster.

    The dense product meets the zeros too: there Inf and NaN in x reach every output, as in `nn.Linear`.
    """

    name = "auto"

    @staticmethod
    def matmul(
        weight: torch.Tensor, pattern: CsrPattern, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
    ) -> torch.Tensor:
        if not _dense_is_faster("matmul", pattern, x):
            return Csr.matmul(weight, pattern, x, bias, relu)
        return densified.densified_matmul.call(weight, pattern.offsets, pattern.columns, pattern.cols, x, bias, relu)

    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: CsrPattern, dy: torch.Tensor) -> torch.Tensor:
        if not _dense_is_faster("matmul_t", pattern, dy):
            return Csr.matmul_t(weight, pattern, dy)
        return densified.densified_matmul_t.call(weight, pattern.offsets, pattern.columns, pattern.cols, dy)

    @staticmethod
    def grad_weight(pattern: CsrPattern, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if not _dense_is_faster("grad_weight", pattern, x):
            return Csr.grad_weight(pattern, dy, x)
        return densified.densified_grad_weight.call(pattern.offsets, pattern.columns, pattern.cols, dy, x)


def _dense_is_faster(product: str, pattern: CsrPattern, tokens: torch.Tensor) -> bool:
    return dense_is_faster(product, tokens, pattern.rows, pattern.cols, pattern.capacity)


LAYOUTS: dict[str, type[Layout]] = {"csr": Csr, "auto": Auto, "2:4": Nm24}


def layout_named(name: str) -> type[Layout]:
    """The layout of that name; ValueError names the ones there are."""
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ValueError(f"expected layout to be one of {', '.join(map(repr, LAYOUTS))}, got {name!r}")
    return layout
