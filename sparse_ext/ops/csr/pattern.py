"""`CsrPattern`: any positions, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import kernels as csr
from ..boundary.checks import check_pattern
from ..regrow.kernels import Candidates, regrow, regrow_streamed
from ..pattern import Pattern, Traits

# Columns fit 16 bits up to here; the kernels then read half the index bytes.
MAX_16BIT = 1 << 16


@dataclass(frozen=True, eq=False)
class CsrPattern(Pattern):
    """The positions of a CSR matrix's entries. Entries behind `row_ptr[rows]` are unused.

    Attributes:
        rows, cols: the matrix's shape.
        row_ptr: int32 [rows + 1]. What is stored, with
        col_idx: int32 [capacity], ascending inside a row. All below is derived from the two, and all that kernels read:
        offsets: int32 [rows + 1], a copy of row_ptr;
        columns: uint16 [capacity] where cols <= 65536, else int32, a copy of col_idx;
        col_ptr: int32 [cols + 1], the transposed view, with
        row_ids: uint16 or int32 [capacity] and
        slot: int32 [capacity], the index of each transposed entry's value. Values are stored once.
    """

    STORED = ("row_ptr", "col_idx")
    PRODUCT = "csr_linear"
    SPARSITY = 0.9
    ANY_DENSITY = True
    STREAMS = True

    rows: int
    cols: int
    row_ptr: torch.Tensor
    col_idx: torch.Tensor
    offsets: torch.Tensor
    columns: torch.Tensor
    col_ptr: torch.Tensor
    row_ids: torch.Tensor
    slot: torch.Tensor

    # ---- of a layer that is being made ----------------------------------------------------------------------------------

    @staticmethod
    def sizes(rows: int, cols: int, sparsity: float, capacity: float | None) -> tuple[int, int]:
        nnz = round((1.0 - sparsity) * rows * cols)
        fits = capacity is None or 0.0 <= capacity <= 1.0  # not so for NaN
        room = nnz if capacity is None or not fits else round(capacity * rows * cols)
        if not fits or room < nnz:
            raise ValueError(f"expected capacity (a density) in [{1.0 - sparsity:.6g}, 1], got {capacity}")
        return nnz, room

    @staticmethod
    def blank(rows: int, cols: int, room: int, device: torch.device | str | None) -> tuple[torch.Tensor, ...]:
        return (
            torch.zeros(rows + 1, dtype=torch.int32, device=device),
            torch.zeros(room, dtype=torch.int32, device=device),
        )

    @classmethod
    def around(cls, rows: int, cols: int, room: int, *stored: torch.Tensor) -> CsrPattern:
        row_ptr, col_idx = stored
        if not row_ptr.is_meta:
            check_pattern("pattern", row_ptr, col_idx, rows, cols)

        def index(size: int, largest: int) -> torch.Tensor:
            dtype = torch.uint16 if largest <= MAX_16BIT else torch.int32
            return torch.empty(size, dtype=dtype, device=col_idx.device)

        pattern = cls(
            rows=rows,
            cols=cols,
            row_ptr=row_ptr,
            col_idx=col_idx,
            offsets=torch.empty_like(row_ptr),
            columns=index(room, cols),
            col_ptr=row_ptr.new_empty(cols + 1),
            row_ids=index(room, rows),
            slot=torch.empty_like(col_idx),
        )
        pattern.derive_()
        return pattern

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> CsrPattern:
        room = int(mask.sum()) if capacity is None else capacity
        stored = csr.csr_from_mask(mask, room)
        return cls.around(mask.shape[0], mask.shape[1], room, *stored)

    def largest(self, dense: torch.Tensor, nnz: int) -> CsrPattern:
        order = torch.argsort(dense.detach().reshape(-1).abs(), descending=True, stable=True)
        mask = torch.zeros(dense.numel(), dtype=torch.bool, device=dense.device)
        mask[order[:nnz]] = True
        return self.from_mask(mask.view(dense.shape), self.capacity)

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> CsrPattern:
        room = nnz if capacity is None else capacity
        row_ptr, col_idx = cls.blank(rows, cols, room, device)
        row_ptr, col_idx[:nnz], _ = regrow(col_idx[:nnz].float(), row_ptr, col_idx[:nnz], cols, None, seed, 0, nnz)
        return cls.around(rows, cols, room, row_ptr, col_idx)

    # ---- as stored, and as products take it -----------------------------------------------------------------------------

    @property
    def stored(self) -> tuple[torch.Tensor, ...]:
        return self.row_ptr, self.col_idx

    @property
    def derived(self) -> tuple[torch.Tensor, ...]:
        return self.offsets, self.columns, self.col_ptr, self.row_ids, self.slot

    @property
    def traits(self) -> Traits:
        return self.rows, self.cols

    @classmethod
    def of_derived(cls, traits: Traits, draw: torch.Tensor | None, *derived: torch.Tensor) -> CsrPattern:
        (rows, cols), (offsets, columns, col_ptr, row_ids, slot) = traits, derived
        return cls(rows, cols, offsets, columns, offsets, columns, col_ptr, row_ids, slot)

    def derive_(self) -> None:
        if self.row_ptr.is_meta:
            return
        col_ptr, row_ids, slot = csr.csr_transpose(self.row_ptr, self.col_idx, self.cols)
        for tensor, value in zip(self.derived, (self.row_ptr, self.col_idx, col_ptr, row_ids, slot), strict=True):
            tensor.copy_(value)

    def catch_up_(self) -> bool:
        same = torch.equal(self.offsets, self.row_ptr) and torch.equal(self.columns.to(torch.int32), self.col_idx)
        if not same:
            check_pattern("pattern", self.row_ptr, self.col_idx, self.rows, self.cols)
            self.derive_()
        return not same

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return self.col_idx.shape[0]

    @property
    def nnz(self) -> int:
        return int(self.row_ptr[-1])

    def mask(self) -> torch.Tensor:
        ones = torch.ones(self.capacity, dtype=torch.float32, device=self.col_idx.device)
        return csr.csr_unpack(ones, self.row_ptr, self.col_idx, self.cols).bool()

    def bits(self) -> torch.Tensor:
        index = self.linear_index()
        flags = torch.zeros(-(-self.rows * self.cols // 8) * 8, dtype=torch.uint8, device=index.device)
        flags[index] = 1
        places = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=index.device)
        return (flags.view(-1, 8) * places).sum(1, dtype=torch.uint8)

    def identity(self) -> tuple[torch.Tensor, ...]:
        return self.row_ptr, self.col_idx[: self.nnz]

    def linear_index(self) -> torch.Tensor:
        """int64 [nnz]: r * cols + c of every entry, ascending."""
        counts = self.row_ptr.diff().long()
        rows = torch.repeat_interleave(torch.arange(self.rows, device=counts.device), counts)
        return rows * self.cols + self.col_idx[: rows.numel()].long()

    # ---- what follows a change -----------------------------------------------------------------------------------------

    def entries(self, weight: torch.Tensor, nnz: int) -> torch.Tensor:
        return weight[:nnz]

    def clear_unused_(self, weight: torch.Tensor) -> None:
        weight[self.nnz :] = 0

    def regrown(
        self, weight: torch.Tensor, score: Any, stream: int, drop: int, grow: int
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        operands = (weight, self.row_ptr, self.col_idx, self.cols)
        if isinstance(score, Candidates):
            row_ptr, col_idx, source = regrow_streamed(*operands, *score.tensors, drop, grow)
        else:
            row_ptr, col_idx, source = regrow(*operands, score, stream, drop, grow)
        return (row_ptr, col_idx), source

    def enlarged(self, room: int) -> tuple[torch.Tensor, ...]:
        return self.row_ptr, self.lengthened(self.col_idx, room)

    def lengthened(self, values: torch.Tensor, room: int) -> torch.Tensor:
        return torch.cat([values, values.new_zeros(room - self.capacity)])

    def adopted(self, prefix: str, weight: torch.Tensor | None, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, index in stored.items():
            if index.is_floating_point():
                raise ValueError(f"{prefix}{name}: expected dtype torch.int32, got {index.dtype}")
        row_ptr, col_idx = stored["row_ptr"], stored["col_idx"]
        check_pattern(prefix + "pattern", row_ptr, col_idx, self.rows, self.cols)
        if weight is not None and weight.shape != col_idx.shape:
            raise ValueError(f"{prefix}weight: expected {col_idx.numel()} values (as col_idx), got {tuple(weight.shape)}")
        if (nnz := int(row_ptr[-1])) > self.capacity:
            raise ValueError(f"{prefix}weight: expected at most {self.capacity} entries (the layer's capacity), got {nnz}")
        fitted = {"row_ptr": row_ptr.int()}
        for name, tensor in (("weight", weight), ("col_idx", col_idx.int())):
            if tensor is not None:
                fitted[name] = tensor.new_zeros(self.capacity)
                fitted[name][:nnz] = tensor[:nnz]
        return fitted
