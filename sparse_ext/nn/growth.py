"""What an armed layer keeps of its dense weight gradient: the sum, or only what growth can choose from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparse_ext.ops import Candidates, Pattern
from sparse_ext.ops.regrow import score_dtype


@dataclass(frozen=True, eq=False)
class Scores:
    """Filled by the backward passes since the layer was armed.

    Attributes:
        kept: the dense gradient [rows, cols], summed over the passes; or, of a single pass, the candidates for growth.
        passes: int64 [1], how many there were.
        into: the tensors that `observe_dense_grad` writes.
    """

    kept: torch.Tensor | Candidates
    passes: torch.Tensor
    into: tuple[torch.Tensor, ...]

    @staticmethod
    def summed(weight: torch.Tensor, shape: tuple[int, int], start: torch.Tensor | None) -> Scores:
        """A sum that goes on from `start`, or 0."""
        total = torch.zeros(shape, dtype=score_dtype(weight.dtype), device=weight.device)
        passes = torch.zeros(1, dtype=torch.int64, device=weight.device)
        if start is not None:
            total.copy_(start)
            passes += 1
        return Scores(total, passes, (total, passes))

    @staticmethod
    def streamed(weight: torch.Tensor, pattern: Pattern, wanted: int) -> Scores:
        """Candidates for up to `wanted` new entries of this pattern."""
        best = Candidates.none_yet(weight.detach(), pattern.capacity, wanted, score_dtype(weight.dtype))
        passes = torch.zeros(1, dtype=torch.int64, device=weight.device)
        return Scores(best, passes, (*best.tensors, passes, *pattern.stored))

    def is_finite(self) -> bool:
        """No Inf or NaN among the scores: these rank first, so the candidates would hold one."""
        scores = (self.kept,) if isinstance(self.kept, torch.Tensor) else self.kept.tensors[:2]
        return all(bool(score.isfinite().all()) for score in scores)
