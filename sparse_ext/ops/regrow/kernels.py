"""Replacing the weakest connections, with exact counts and a slot map: `torch.ops.sparse_ext.regrow*`.

The growth score passes by in tiles of whole rows and leaves its best positions behind (`Candidates`); from these the new
pattern is made. So a dense score is never needed whole: `regrow` takes one that is there, `stream_outer_` one that is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..boundary import views
from ..boundary.checks import check_dtype, check_index, check_positions, check_range
from ..boundary.launch import DTYPES, backend_of, ready, workspace
from ..boundary.library import define

# Positions of a tile: what stays in the last-level cache of a CPU, or fills a GPU and stays in its second-level cache.
TILE = {"cpu": 1 << 21, "cuda": 1 << 22}


def tile_rows(device: torch.device, cols: int) -> int:
    """How many rows of a [rows, cols] score pass by at once."""
    return max(1, TILE.get(device.type, TILE["cuda"]) // max(1, cols))


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the scores of weights of this dtype: that of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is kept of a score [rows, cols] for growth: O(entries + candidates) numbers.

    Attributes:
        at_entry: [capacity], the score at each of the pattern's entries (any of them may be dropped).
        score: [candidates], the largest |score| of positions that are no entries; ties go to the lower position.
        position: int64 [candidates], r * cols + c of these, ascending.
        count: int64 [1], how many there are; behind them all is 0.

    Without at_entry and score (both None) the candidates are those of random growth, whose position says it all.
    """

    at_entry: torch.Tensor | None
    score: torch.Tensor | None
    position: torch.Tensor
    count: torch.Tensor

    @staticmethod
    def none_yet(like: torch.Tensor, capacity: int, candidates: int, dtype: torch.dtype | None) -> Candidates:
        """Before the first tile, on the device of `like`; dtype: of the scores, or None for random growth."""
        return Candidates(
            at_entry=None if dtype is None else like.new_zeros(capacity, dtype=dtype),
            score=None if dtype is None else like.new_zeros(candidates, dtype=dtype),
            position=like.new_zeros(candidates, dtype=torch.int64),
            count=like.new_zeros(1, dtype=torch.int64),
        )

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Those that are there, in the order of the fields."""
        return tuple(t for t in (self.at_entry, self.score, self.position, self.count) if t is not None)

    def ready(self) -> Candidates:
        """As kernels need them: itself, or copies."""
        at_entry, score = (None if t is None else ready(t) for t in (self.at_entry, self.score))
        return Candidates(at_entry, score, ready(self.position), ready(self.count))

    def view(self, dtype: torch.dtype) -> tuple[int, ...]:
        """As launchers take them; dtype: of the score."""
        pointers = map(views.address, (self.at_entry, self.score, self.position, self.count))
        return *pointers, DTYPES[dtype], self.position.numel()

    def take_(
        self, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, tile: torch.Tensor | None, rows: range, seed: int = 0
    ) -> None:
        """Lets these rows of the score pass by: `tile` [len(rows), cols], or the random stream. Rows come in order."""
        dtype = torch.float32 if self.score is None else self.score.dtype
        backend = backend_of("regrow_candidates", self.position)
        stream = backend.stream(self.position)
        best, tile = self.ready(), None if tile is None else ready(tile)
        list_view, tile_view = best.view(dtype), (views.address(tile), DTYPES[dtype], len(rows), cols)
        space = workspace(self.position, backend.module.regrow_candidates_workspace(list_view, tile_view, stream))
        pattern = views.pattern(row_ptr, col_idx, cols)
        backend.module.regrow_candidates(list_view, pattern, tile_view, rows.start, seed, views.address(space), stream)
        for own, filled in zip(self.tensors, best.tensors, strict=True):
            if filled is not own:
                own.copy_(filled)


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


def check_score(op: str, name: str, score: torch.Tensor, like: torch.Tensor, shape: tuple[int, ...]) -> None:
    wanted = score_dtype(like.dtype)
    if score.dtype != wanted:
        raise TypeError(f"{op}: expected {name} of dtype {wanted} (weight is {like.dtype}), got {score.dtype}")
    if score.shape != shape:
        raise ValueError(f"{op}: expected {name} of shape {shape}, got {tuple(score.shape)}")
    if score.device != like.device:
        raise ValueError(f"{op}: expected {name} on {like.device} (as weight), got {score.device}")


def check_candidates(
    op: str,
    like: torch.Tensor,
    capacity: int,
    at_entry: torch.Tensor,
    score: torch.Tensor,
    position: torch.Tensor,
    count: torch.Tensor,
) -> Candidates:
    """The tensors as one value; ValueError or TypeError unless they fit a pattern of this capacity and weights like these."""
    check_score(op, "at_entry", at_entry, like, (capacity,))
    check_score(op, "score", score, like, (position.numel(),))
    for name, tensor, shape in (("position", position, (score.numel(),)), ("count", count, (1,))):
        if tensor.dtype != torch.int64:
            raise TypeError(f"{op}: expected {name} of dtype torch.int64, got {tensor.dtype}")
        if tensor.shape != shape or tensor.device != like.device:
            raise ValueError(f"{op}: expected {name} {shape} on {like.device}, got {tuple(tensor.shape)} on {tensor.device}")
    return Candidates(at_entry, score, position, count)


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
        weight: [capacity]; row_ptr int32 [rows + 1]; col_idx int32 [capacity].
        score: dense [rows, cols] of the sums' dtype (float32; float64 for float64), ranked by absolute value;
            None: the Philox stream `seed`, element r * cols + c (Mocanu et al. 2018, SET's random growth).

    Returns:
        row_ptr, col_idx and source [capacity] of the new pattern; source[q] is the old entry that entry q was, or -1
        where it is new or unused. A position dropped and grown at once keeps its entry.
    """
    op, rows = "regrow", row_ptr.numel() - 1
    if score is not None:
        check_score(op, "score", score, weight, (rows, cols))
        score = score.contiguous()
    row_ptr, col_idx = _checked(op, weight, row_ptr, col_idx, cols, drop, grow)
    dtype = None if score is None else score.dtype
    best = Candidates.none_yet(weight, col_idx.numel(), grow, dtype)
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
    """Lets rows first_row, ... of a dense score pass by; `tile` holds them. See `Candidates`; rows come in ascending order."""
    op = "regrow_candidates_"
    best = check_candidates(op, score, col_idx.numel(), at_entry, score, position, count)
    if tile.dim() != 2 or not 0 <= first_row <= row_ptr.numel() - 1 - tile.shape[0]:
        raise ValueError(
            f"{op}: expected a tile of whole rows of {row_ptr.numel() - 1}, got shape {tuple(tile.shape)} at row {first_row}"
        )
    check_score(op, "tile", tile, score, tuple(tile.shape))
    row_ptr, col_idx = check_pattern_of(op, score, row_ptr, col_idx, tile.shape[1])
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
    """`regrow` by a score that has passed by: the same result from `Candidates` of all rows, with room for `grow`."""
    op = "regrow_streamed"
    best = check_candidates(op, weight, col_idx.numel(), at_entry, score, position, count)
    row_ptr, col_idx = _checked(op, weight, row_ptr, col_idx, cols, drop, grow)
    if position.numel() < grow:
        raise ValueError(f"{op}: expected candidates for grow = {grow}, got room for {position.numel()}")
    check_positions(op, position, count, (row_ptr.numel() - 1) * cols)
    return rebuild(op, weight, row_ptr, col_idx, cols, best, 0, drop, grow)


@regrow_streamed.fake
def _(weight, row_ptr, col_idx, cols, at_entry, score, position, count, drop, grow):
    check_index("regrow_streamed", weight, row_ptr=row_ptr, col_idx=col_idx)
    return torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)
