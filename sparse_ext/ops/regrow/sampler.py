"""`drawn`: a random choice without replacement, as a score whose largest elements are the chosen ones."""

from __future__ import annotations

import torch

from ..pattern import magnitude
from .random import random_u32


def drawn(score: torch.Tensor, power: float, seed: int, at: torch.Tensor | None = None) -> torch.Tensor:
    """A score whose n largest elements are n random ones, without replacement, with chances in proportion to |score| ** power.

    Every element gets |score| ** power / E with a random E of the exponential distribution (Efraimidis & Spirakis 2006,
    "Weighted random sampling with a reservoir"). What is returned has the same order, and neither overflows nor underflows.
    Elements of score 0 rank last, NaN and Inf first.

    Args:
        score: of any shape.
        power: at least 0; the larger it is, the closer the choice is to that of the largest scores.
        seed: of the random stream. Element p of it belongs to position p, whatever is asked of it.
        at: int64, of the score's shape: the position of each element, any number for those that do not count; None: their
            linear index.

    Returns:
        float32, for float64 scores float64: values from 0 to 1, of the score's shape.

    Example:
        pattern.regrown(drawn(weight, 2.0, seed, pattern.positions()), grow, drop, count)  # large weights are likely to stay
    """
    wide = magnitude(score)
    last = wide.numel() - 1 if at is None else int(at.max()) if at.numel() else -1
    words = random_u32(seed, last + 1, wide.device)
    words = words.view_as(wide) if at is None else words[at.clamp(min=0)] if at.numel() else words
    waiting = -((words.double() + 0.5) / 2**32).log()  # E; never 0
    order = power * wide.log() - waiting.log()
    order = torch.where(wide.isinf(), torch.inf, torch.where(wide == 0, -torch.inf, order))
    largest = order.masked_fill(order.isinf(), -torch.inf).max() if order.numel() else order.sum()
    rank = (1.0 + largest - order).reciprocal().masked_fill(order == torch.inf, 1.0).masked_fill(wide == 0, 0.0)
    return rank.to(torch.promote_types(score.dtype, torch.float32))
