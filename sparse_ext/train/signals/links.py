"""`LinkPrediction`: a layer's own topology; no gradient is computed for it."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparse_ext.ops import link_scores

from .base import Signal


class LinkPrediction(Signal):
    """Which connections the layer's own topology predicts: CH2-L3n of its mask, see `ops.link_scores`. Needs no gradient.

    Where no path of length 3 leads, the score is UNLINKED, below all others: random growth then reaches such positions when no
    others are left, all with the same chance.
    """

    name = "links"
    OBSERVES = False
    UNLINKED: ClassVar[float] = 1e-30

    def score(self) -> torch.Tensor:
        return link_scores(self.layer.mask()).clamp_(min=self.UNLINKED)
