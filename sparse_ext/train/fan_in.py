"""`even`: a pattern in which all rows that are in use have equally many positions (SRigL)."""

from __future__ import annotations

import torch

from sparse_ext.methods import RegrowEvenly
from sparse_ext.ops import Pattern, slot_map
from sparse_ext.ops.pattern import largest, magnitude


def even(pattern: Pattern, weight: torch.Tensor, score: torch.Tensor, action: RegrowEvenly) -> tuple[Pattern, torch.Tensor]:
    """The new pattern, and its slot map.

    Rows that stay in use keep their largest magnitudes, `action.drop` fewer than the layer has in all, and grow by |score|.

    Args:
        pattern: one that can become any other.
        weight: [capacity], packed.
        score: [rows, cols].
    """
    at = pattern.positions()
    used = at >= 0
    flat = torch.zeros(pattern.rows * pattern.cols, dtype=torch.float64, device=at.device)
    flat[at[used]] = magnitude(weight[used])
    size, stored, growth = flat.view(pattern.rows, pattern.cols), pattern.mask(), magnitude(score)
    stay = int(used.sum()) - action.drop
    rows = _rows_in_use(stored, _best(size, stored, stay), growth, action)
    count = int(rows.sum())
    # Half of a position is rounded up.
    fan_in = min((2 * action.nnz + count) // max(1, 2 * count), pattern.cols, pattern.capacity // max(1, count))
    kept = _best(size, stored & rows[:, None], stay)
    kept &= _first(size.masked_fill(~kept, -1.0), kept.sum(1, keepdim=True).clamp_(max=fan_in))
    missing = (fan_in - kept.sum(1, keepdim=True)) * rows[:, None]
    mask = kept | _first(growth.masked_fill(kept, -1.0), missing)
    other = type(pattern).from_mask(mask, pattern.capacity)
    return other, slot_map(at, other.positions())


def _rows_in_use(stored: torch.Tensor, kept: torch.Tensor, growth: torch.Tensor, action: RegrowEvenly) -> torch.Tensor:
    """bool [rows]: which rows have positions from now on: of the salient ones enough, or the most."""
    everywhere = torch.ones_like(stored)
    salient = (kept | _best(growth, everywhere, action.grow)).sum(1)
    now = int(stored.any(1).sum())
    share = stored.shape[1] if action.of_dense else action.nnz / max(1, now)
    enough = salient >= (0 if action.salient is None else max(1, action.salient * share))
    least = -(-action.nnz // max(1, stored.shape[1]))  # fewer rows could not hold so many positions
    count = min(max(int(enough.sum()), least), action.nnz)  # every row in use has one
    return largest(salient.double(), count)


def _best(score: torch.Tensor, among: torch.Tensor, count: int) -> torch.Tensor:
    """bool [rows, cols]: the `count` largest where `among` is True, or all of them if they are fewer."""
    count = min(count, int(among.sum()))
    return largest(score.masked_fill(~among, -1.0).flatten(), count, signed=True).view_as(among)


def _first(score: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """bool [rows, cols]: of each row the `count` [rows, 1] largest; ties go to the lower column."""
    most = int(count.max()) if count.numel() else 0
    if not most:
        return torch.zeros_like(score, dtype=torch.bool)
    least = score.topk(most, dim=1).values.gather(1, (count - 1).clamp_(min=0))  # of those that are taken
    above, ties = score > least, score == least
    ties &= ties.cumsum(1) <= count - above.sum(1, keepdim=True)
    return (above | ties) & (count > 0)
