"""`DensePattern`: every position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..pattern import Pattern, Sizes


@dataclass(frozen=True, eq=False)
class DensePattern(Pattern):
    """All positions of a [rows, cols] matrix, row by row. A checkpoint holds nothing of it.

    Attributes:
        rows, cols: the matrix's shape.
        device: where `positions` and `mask` are made.
    """

    BUFFERS = ()
    SPARSITY = 0.0
    VARIABLE = False
    RULES = ()
    REGROWS = False

    device: torch.device | str | None = field(default=None, repr=False)

    @classmethod
    def sizes(cls, rows: int, cols: int, sparsity: float, capacity: float | None) -> Sizes:
        if sparsity != 0.0 or capacity not in (None, 1, 1.0):
            raise ValueError(
                f"expected sparsity 0 and capacity 1.0 (or None) for layout 'dense', got sparsity {sparsity} and capacity "
                f"{capacity}"
            )
        return Sizes(rows * cols, rows * cols)

    @classmethod
    def empty(cls, rows: int, cols: int, capacity: int, device: torch.device | str | None) -> DensePattern:
        return cls(rows, cols, device)

    @classmethod
    def of_buffers(
        cls, rows: int, cols: int, buffers: dict[str, torch.Tensor], device: torch.device | str | None
    ) -> DensePattern:
        return cls(rows, cols, device)

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> DensePattern:
        """Of any mask: what it leaves out is stored as 0."""
        return cls(mask.shape[0], mask.shape[1], mask.device)

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> DensePattern:
        return cls(rows, cols, device)

    @classmethod
    def select(cls, score: torch.Tensor, count: int, *, capacity: int | None = None, rule: str = "largest") -> DensePattern:
        return cls(score.shape[0], score.shape[1], score.device)

    @property
    def capacity(self) -> int:
        return self.rows * self.cols

    @property
    def nnz(self) -> int:
        return self.rows * self.cols

    def positions(self) -> torch.Tensor:
        return torch.arange(self.rows * self.cols, device=self.device)

    def mask(self) -> torch.Tensor:
        return torch.ones(self.rows, self.cols, dtype=torch.bool, device=self.device)

    def regrown(self, keep: torch.Tensor, grow: Any, drop: int, count: int) -> tuple[DensePattern, torch.Tensor]:
        raise ValueError("expected a pattern with positions to grow, got one that stores all of them (layout 'dense')")

    def resized(self, capacity: int) -> DensePattern:
        return self
