"""`with_first`: a score by which some positions rank before all others, exactly, and in one selection."""

from __future__ import annotations

import torch

from .random import random_u32

_SPAN = 2.0**32  # ranks lie below it, so that float64 holds their sum exactly


def with_first(score: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Ranks the positions in `first` before all others, and among each other as |score| does; so also scores of 0.

    What is returned has no other ties than those of |score| inside either part. Non-finite scores rank as the largest.

    Args:
        score: float32, float64, or int64 from 0 to 2^32 - 1; of any shape.
        first: bool, of the same shape.

    Returns:
        float64, of the score's shape, at least 0.

    Example:
        grow = with_first(gradient, never_in_use)
        pattern.regrown(weight.double(), grow, drop, count)  # as float64 scores need it
    """
    return _rank(score.detach()).double() + first * _SPAN


def random_score(rows: int, cols: int, seed: int, device: torch.device | str | None = None) -> torch.Tensor:
    """int64 [rows, cols]: the elements of the random stream `seed` by linear index, as random growth ranks by them."""
    return random_u32(seed, rows * cols, device).view(rows, cols)


def _rank(score: torch.Tensor) -> torch.Tensor:
    """int64 from 0 to 2^32 - 1, in the order of |score|."""
    if not score.is_floating_point():
        return score
    size = score.abs().nan_to_num(torch.inf, torch.inf)
    if size.dtype == torch.float32:  # the bits of floats that are not negative have the floats' order
        return size.contiguous().view(torch.int32).long()
    return size.unique(return_inverse=True)[1]
