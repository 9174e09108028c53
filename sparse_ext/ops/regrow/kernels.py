"""Drop and grow for CSR patterns, with exact counts and a slot map: `torch.ops.sparse_ext.regrow*`.

The growth score is read in tiles of whole rows. Only the best positions are kept, as `Candidates`, and the new pattern is built
from them. `regrow` takes a dense score; `regrow_streamed` takes the candidates of a score that was never stored.
"""

from __future__ import annotations

import torch

from ..boundary import views
from ..boundary.checks import check_dtype, check_index, check_positions, check_range
from ..boundary.launch import backend_of, ready, workspace
from ..boundary.library import define
from ..product import tile_rows
from .candidates import Candidates, check_candidates, check_score, score_dtype


def check_pattern_of(
    op: str, like: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """row_ptr and col_idx as kernels need them; TypeError or ValueError unless they are an int32 pattern for these values."""
    check_index(op, like, row_ptr=row_ptr, col_idx=col_idx)
    if col_idx.dtype != torch.int32:
        raise TypeError(f"{op}: expected col_idx of dtype torch.int32, got {col_idx.dtype}")
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    return row_ptr, col_idx


def _check_counts(op: str, nnz: int, capacity: int, positions: int, drop: int, grow: int) -> None:
    if not 0 <= nnz <= capacity:
        raise ValueError(f"{op}: expected row_ptr to end at {capacity} entries at most, got {nnz}")
    if not 0 <= drop <= nnz:
        raise ValueError(f"{op}: expected drop between 0 and nnz = {nnz}, got {drop}")
    kept = nnz - drop
    room = min(capacity, positions) - kept
    if not 0 <= grow <= room:
        raise ValueError(
            f"{op}: expected grow between 0 and {room} ({kept} of {nnz} entries are kept, capacity {capacity}, "
            f"{positions} positions), got {grow}"
        )


def rebuild(
    op: str,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    best: Candidates,
    seed: int,
    drop: int,
    grow: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The new pattern from the candidates of all rows."""
    backend = backend_of(op, weight)
    check_dtype(op, backend, "weight", weight)
    weight, best = ready(weight), best.ready()
    new_row_ptr, new_col_idx, source = torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)
    old, list_view = views.csr(weight, views.pattern(row_ptr, col_idx, cols)), best.view(score_dtype(weight.dtype))
    stream = backend.stream(weight)
    space = workspace(weight, backend.module.regrow_workspace(old, list_view, stream))
    out = views.pattern(new_row_ptr, new_col_idx, cols, source)
    backend.module.regrow(out, old, list_view, seed, drop, grow, views.address(space), stream)
    return new_row_ptr, new_col_idx, source


def _checked(
    op: str, weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, drop: int, grow: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """row_ptr and col_idx as kernels need them, after all that both forms ask of their operands."""
    row_ptr, col_idx = check_pattern_of(op, weight, row_ptr, col_idx, cols)
    if weight.shape != col_idx.shape:
        raise ValueError(f"{op}: expected weight of shape ({col_idx.numel()},) (as col_idx), got {tuple(weight.shape)}")
    check_dtype(op, backend_of(op, weight), "weight", weight)
    _check_counts(op, int(row_ptr[-1]), col_idx.numel(), (row_ptr.numel() - 1) * cols, drop, grow)
    return row_ptr, col_idx


@define(
    "regrow(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor? score, int seed, int drop, int grow)"
    " -> (Tensor, Tensor, Tensor)"
)
def regrow(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    score: torch.Tensor | None,
    seed: int,
    drop: int,
    grow: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drops the `drop` entries of smallest |weight|, then grows the `grow` positions of largest score.

    Growth candidates are all positions that are not kept, just-dropped ones included (Evci et al. 2020, "Rigging the
    Lottery", Algorithm 1). Ties go to the lower linear index, so the same scores give the same pattern everywhere.

    Args:
        weight: [capacity], ranks the entries by magnitude.
        row_ptr, col_idx: int32 [rows + 1] and [capacity], the CSR pattern of a [rows, cols] matrix.
        score: dense [rows, cols], float64 for a float64 weight, otherwise float32; its magnitude ranks the positions. None:
            random growth, by element r * cols + c of the Philox stream `seed` (SET, Mocanu et al. 2018).
        seed: of random growth; ignored with a score.
        drop, grow: how many entries to drop and positions to grow.

    Returns:
        row_ptr, col_idx and source int32 [capacity] of the new pattern. source[q] is the old entry that entry q was, or -1
        where it is new or unused. A position that is dropped and grown at once keeps its entry.

    Raises:
        ValueError: shapes or devices do not fit, or drop or grow is out of range.
        TypeError: a dtype is wrong.

    Example:
        row_ptr, col_idx, source = regrow(weight, pattern.row_ptr, pattern.col_idx, pattern.cols, grad, 0, 10, 10)
        weight = torch.where(source >= 0, weight[source.clamp(min=0)], 0)  # survivors keep their value, new ones are 0
    """
    op, rows = "regrow", row_ptr.numel() - 1
    if score is not None:
        check_score(op, "score", score, weight, (rows, cols))
        score = score.contiguous()
    row_ptr, col_idx = _checked(op, weight, row_ptr, col_idx, cols, drop, grow)
    dtype = None if score is None else score.dtype
    best = Candidates.empty(weight, col_idx.numel(), grow, dtype)
    # Every tile costs a look at the whole list, and on a GPU its launches.
    step = max(tile_rows(weight.device, cols), 4 * grow // max(1, cols)) if weight.is_cpu else max(1, rows)
    for first in range(0, rows, step):
        tile = range(first, min(first + step, rows))
        best.take_(row_ptr, col_idx, cols, None if score is None else score[tile.start : tile.stop], tile, seed)
    return rebuild(op, weight, row_ptr, col_idx, cols, best, seed, drop, grow)


@regrow.fake
def _(weight, row_ptr, col_idx, cols, score, seed, drop, grow):
    check_index("regrow", weight, row_ptr=row_ptr, col_idx=col_idx)
    if score is not None:
        check_score("regrow", "score", score, weight, (row_ptr.shape[0] - 1, cols))
    return torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)


@define(
    "regrow_candidates_(Tensor(a!) at_entry, Tensor(b!) score, Tensor(c!) position, Tensor(d!) count,"
    " Tensor row_ptr, Tensor col_idx, Tensor tile, int first_row) -> ()"
)
def regrow_candidates_(
    at_entry: torch.Tensor,
    score: torch.Tensor,
    position: torch.Tensor,
    count: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    tile: torch.Tensor,
    first_row: int,
) -> None:
    """Takes the best of rows first_row, ... of a dense score, which `tile` holds. Rows come in ascending order."""
    op = "regrow_candidates_"
    best = check_candidates(op, score, col_idx.numel(), at_entry, score, position, count)
    if tile.dim() != 2 or not 0 <= first_row <= row_ptr.numel() - 1 - tile.shape[0]:
        raise ValueError(
            f"{op}: expected a tile of whole rows of {row_ptr.numel() - 1}, got shape {tuple(tile.shape)} at row {first_row}"
        )
    check_score(op, "tile", tile, score, tuple(tile.shape))
    row_ptr, col_idx = check_pattern_of(op, score, row_ptr, col_idx, tile.shape[1])
    check_positions(op, position, count, row_ptr, col_idx, tile.shape[1], first_row)
    best.take_(row_ptr, col_idx, tile.shape[1], tile, range(first_row, first_row + tile.shape[0]))


@regrow_candidates_.fake
def _(at_entry, score, position, count, row_ptr, col_idx, tile, first_row):
    return None


@define(
    "regrow_streamed(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols,"
    " Tensor at_entry, Tensor score, Tensor position, Tensor count, int drop, int grow) -> (Tensor, Tensor, Tensor)"
)
def regrow_streamed(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    at_entry: torch.Tensor,
    score: torch.Tensor,
    position: torch.Tensor,
    count: torch.Tensor,
    drop: int,
    grow: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`regrow` by candidates: the same result from the `Candidates` of all rows, of size `grow` or more."""
    op = "regrow_streamed"
    best = check_candidates(op, weight, col_idx.numel(), at_entry, score, position, count)
    row_ptr, col_idx = _checked(op, weight, row_ptr, col_idx, cols, drop, grow)
    if position.numel() < grow:
        raise ValueError(f"{op}: expected at least grow = {grow} candidates, got {position.numel()}")
    needed = min(grow, (row_ptr.numel() - 1) * cols - int(row_ptr[-1]))  # with fewer, another number would grow
    if int(count) < needed:
        raise ValueError(f"{op}: expected count {needed} or more (the candidates of all rows), got {int(count)}")
    check_positions(op, position, count, row_ptr, col_idx, cols, row_ptr.numel() - 1)
    return rebuild(op, weight, row_ptr, col_idx, cols, best, 0, drop, grow)


@regrow_streamed.fake
def _(weight, row_ptr, col_idx, cols, at_entry, score, position, count, drop, grow):
    check_index("regrow_streamed", weight, row_ptr=row_ptr, col_idx=col_idx)
    return torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)
