"""`GradientSum`: the gradient itself."""

from __future__ import annotations

import torch

from .base import Signal


class GradientSum(Signal):
    """The sum of the gradients of the observed steps (Evci et al. 2020, RigL: of one step)."""

    name = "gradient"
    STREAMS = True

    def start(self) -> None:
        self.total: torch.Tensor | None = None

    def observe(self, tile: torch.Tensor, rows: range) -> None:
        if self.total is None and len(rows) == self.rows:
            self.total = tile
            return
        if self.total is None:
            self.total = self.zeros()
        self.total[rows.start : rows.stop] += tile

    def score(self) -> torch.Tensor:
        return self.zeros() if self.total is None else self.total

    def updated(self) -> None:
        self.total = None
