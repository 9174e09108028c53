"""`CsrPattern`: any positions, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..boundary.checks import check_pattern, check_sizes
from ..pattern import Pattern
from ..regrow.candidates import Candidates, CandidateSink
from ..regrow.kernels import regrow, regrow_streamed
from ..rule import Rule
from .conversions import csr_from_mask, csr_unpack


@dataclass(frozen=True, eq=False)
class CsrPattern(Pattern):
    """The positions of a CSR matrix's entries. Slots behind `row_ptr[rows]` are unused.

    Attributes:
        rows, cols: the matrix's shape.
        row_ptr: int32 [rows + 1]; row r owns the slots row_ptr[r] to row_ptr[r + 1].
        col_idx: int32 [capacity], ascending inside a row.
    """

    BUFFERS = ("row_ptr", "col_idx")

    row_ptr: torch.Tensor
    col_idx: torch.Tensor

    @classmethod
    def empty(cls, rows: int, cols: int, capacity: int, device: torch.device | str | None) -> CsrPattern:
        check_sizes("csr", rows, cols, capacity)
        row_ptr = torch.zeros(rows + 1, dtype=torch.int32, device=device)
        return cls(rows, cols, row_ptr, torch.zeros(capacity, dtype=torch.int32, device=device))

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> CsrPattern:
        if mask.dim() == 2:
            check_sizes("csr_from_mask", mask.shape[0], mask.shape[1], capacity or 0)  # before all of them are counted
        row_ptr, col_idx = csr_from_mask(mask, int(mask.sum()) if capacity is None else capacity)
        return cls(mask.shape[0], mask.shape[1], row_ptr, col_idx)

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> CsrPattern:
        """By the Philox stream `seed`: the same positions on every device."""
        nothing = cls.empty(rows, cols, nnz, device)
        return nothing.regrown(nothing.col_idx.float(), seed, 0, nnz)[0].resized(nnz if capacity is None else capacity)

    @classmethod
    def select(cls, score: torch.Tensor, count: int, *, capacity: int | None = None, rule: str = "largest") -> CsrPattern:
        """By regrowth from nothing: a selection in linear time, without a sort."""
        score = score.detach() if score.dtype == torch.float64 else score.detach().float()
        rows, cols = score.shape
        nothing = cls.empty(rows, cols, count, score.device)
        chosen, _ = nothing.regrown(score.new_zeros(count), score, 0, count)
        return chosen.resized(count if capacity is None else capacity)

    @property
    def capacity(self) -> int:
        return self.col_idx.shape[0]

    @property
    def nnz(self) -> int:
        return int(self.row_ptr[-1])

    def positions(self) -> torch.Tensor:
        counts = self.row_ptr.diff().long()
        rows = torch.repeat_interleave(torch.arange(self.rows, device=counts.device), counts)
        at = torch.full((self.capacity,), -1, dtype=torch.int64, device=counts.device)
        at[: rows.numel()] = rows * self.cols + self.col_idx[: rows.numel()]
        return at

    def mask(self) -> torch.Tensor:
        ones = torch.ones(self.capacity, dtype=torch.float32, device=self.col_idx.device)
        return csr_unpack(ones, self.row_ptr, self.col_idx, self.cols).bool()

    def check(self, prefix: str = "", rule: Rule | None = None) -> None:
        for name, index in self.buffers.items():
            if index.dtype is not torch.int32:
                raise ValueError(f"{prefix}{name}: expected dtype torch.int32, got {index.dtype}")
        check_pattern(prefix + "pattern", self.row_ptr, self.col_idx, self.rows, self.cols)

    def regrown(self, keep: torch.Tensor, grow: Any, drop: int, count: int) -> tuple[CsrPattern, torch.Tensor]:
        """By the operator `regrow`, or `regrow_streamed` for `Candidates`; at random by the Philox stream `grow`."""
        operands = (keep, self.row_ptr, self.col_idx, self.cols)
        if isinstance(grow, Candidates):
            row_ptr, col_idx, source = regrow_streamed(*operands, *grow.with_room(self.capacity).tensors, drop, count)
        elif isinstance(grow, int):
            row_ptr, col_idx, source = regrow(*operands, None, grow, drop, count)
        else:
            row_ptr, col_idx, source = regrow(*operands, grow, 0, drop, count)
        return CsrPattern(self.rows, self.cols, row_ptr, col_idx), source

    growth_sink = staticmethod(CandidateSink)

    def resized(self, capacity: int) -> CsrPattern:
        if capacity == self.capacity:
            return self
        if (nnz := self.nnz) > capacity:
            raise ValueError(f"expected at most {capacity} entries (the capacity), got {nnz}")
        col_idx = self.col_idx.new_zeros(capacity)
        col_idx[:nnz] = self.col_idx[:nnz]
        return CsrPattern(self.rows, self.cols, self.row_ptr, col_idx)

    @classmethod
    def upgraded(cls, prefix: str, rows: int, cols: int, entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """64-bit indices, as other tools write them, become ours."""
        wide = {name: entries[name] for name in cls.BUFFERS if entries[name].dtype is torch.int64}
        for name, index in wide.items():
            if not torch.equal(index.int(), index):
                raise ValueError(f"{prefix}{name}: expected indices below 2^31, got {int(index[index.int() != index][0])}")
        return {**entries, **{name: index.int() for name, index in wide.items()}}
