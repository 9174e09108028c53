"""Drop and grow by sorting all positions, and what passes by as the whole that it is part of."""

from __future__ import annotations

import torch

from ..csr.reference import csr_from_mask, entries, padded
from .random import random_u32


def top(key: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` largest; among equal ones the lower index wins; NaN is the largest."""
    chosen = torch.zeros(key.numel(), dtype=torch.bool)
    chosen[torch.argsort(key, descending=True, stable=True)[:count]] = True
    return chosen


def _regrown(weight, row_ptr, col_idx, cols, key, drop, grow):
    """By the growth key [rows * cols], of which the largest win; NaN is the largest."""
    rows_of, columns = entries(row_ptr, col_idx)
    nnz, rows = rows_of.numel(), row_ptr.numel() - 1
    linear = rows_of * cols + columns
    kept = linear[top(weight[:nnz].double().abs(), nnz - drop)]

    key[kept] = -2.0  # not a candidate
    mask = top(key, grow)
    mask[kept] = True

    entry = torch.full((rows * cols,), -1, dtype=torch.int32)
    entry[linear] = torch.arange(nnz, dtype=torch.int32)
    new_row_ptr, new_col_idx = csr_from_mask(mask.view(rows, cols), col_idx.numel())
    return new_row_ptr, new_col_idx, padded(entry[mask], col_idx.numel(), fill=-1)


def regrow(weight, row_ptr, col_idx, cols, score, seed, drop, grow):
    positions = (row_ptr.numel() - 1) * cols
    key = random_u32(seed, positions).double() if score is None else score.reshape(-1).double().abs()
    return _regrown(weight, row_ptr, col_idx, cols, key, drop, grow)


def regrow_candidates_(at_entry, score, position, count, row_ptr, col_idx, tile, first_row):
    cols, rows = tile.shape[1], row_ptr.numel() - 1
    rows_of, columns = entries(row_ptr, col_idx)
    dense = tile.new_zeros((rows, cols))
    dense[first_row : first_row + tile.shape[0]] = tile
    here = (rows_of >= first_row) & (rows_of < first_row + tile.shape[0])
    at_entry[: here.numel()][here] = dense[rows_of, columns][here]

    free = torch.zeros((rows, cols), dtype=torch.bool)
    free[first_row : first_row + tile.shape[0]] = True
    free[rows_of, columns] = False
    all_scores = torch.cat([score[: int(count)], dense[free]])
    all_positions = torch.cat([position[: int(count)], free.reshape(-1).nonzero().reshape(-1)])
    chosen = top(all_scores.abs(), score.numel())  # both lists are by position
    count.fill_(int(chosen.sum()))
    score[: int(count)] = all_scores[chosen]
    position[: int(count)] = all_positions[chosen]


def regrow_streamed(weight, row_ptr, col_idx, cols, at_entry, score, position, count, drop, grow):
    rows = row_ptr.numel() - 1
    dense = at_entry.new_zeros((rows, cols))
    free = torch.ones((rows, cols), dtype=torch.bool)
    rows_of, columns = entries(row_ptr, col_idx)
    dense[rows_of, columns], free[rows_of, columns] = at_entry[: rows_of.numel()], False
    # As a dense score again, in which what is neither an entry nor a candidate is below all others.
    free.view(-1)[position[: int(count)]] = False
    dense.view(-1)[position[: int(count)]] = score[: int(count)]
    return _regrown(
        weight, row_ptr, col_idx, cols, dense.reshape(-1).double().abs().masked_fill(free.reshape(-1), -1.0), drop, grow
    )
