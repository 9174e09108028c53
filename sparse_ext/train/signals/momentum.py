"""`Momentum`: a running mean of the dense gradient."""

from __future__ import annotations

import torch

from .base import Signal


class Momentum(Signal):
    """The exponential average m = c m + (1 - c) g of the gradients g (Dettmers & Zettlemoyer 2019), from 0 on.

    The method's field `momentum` is c. The average goes on over updates: one matrix [rows, cols] is held all the time.
    """

    name = "momentum"
    SKIPS = True

    def start(self) -> None:
        self.mean = self.zeros()

    def observe(self, tile: torch.Tensor, rows: range) -> None:
        self.mean = self.mean.to(tile)  # as the weight is by now
        self.mean[rows.start : rows.stop].lerp_(tile, 1 - self.method.momentum)

    def score(self) -> torch.Tensor:
        return self.mean
