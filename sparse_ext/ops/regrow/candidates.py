"""`Candidates`: the part of a dense score that growth needs, so that the score itself is never stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..boundary import views
from ..boundary.launch import DTYPES, backend_of, ready, workspace
from ..product import Product

if TYPE_CHECKING:
    from ..csr.pattern import CsrPattern


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the scores of weights of this dtype: that of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is kept of a score [rows, cols] for growth: O(capacity + size) numbers.

    Attributes:
        at_entry: [capacity], the score at each of the pattern's entries (any of them may be dropped).
        score: [size], the scores of largest magnitude outside the pattern; ties go to the lower position.
        position: int64 [size], their positions r * cols + c, ascending.
        count: int64 [1], how many there are; the rest of score and position is 0.

    For random growth at_entry and score are None: the seed and the position determine the score.
    """

    at_entry: torch.Tensor | None
    score: torch.Tensor | None
    position: torch.Tensor
    count: torch.Tensor

    @staticmethod
    def empty(like: torch.Tensor, capacity: int, size: int, dtype: torch.dtype | None) -> Candidates:
        """Before the first tile, on the device of `like`; dtype: of the scores, or None for random growth."""
        return Candidates(
            at_entry=None if dtype is None else like.new_zeros(capacity, dtype=dtype),
            score=None if dtype is None else like.new_zeros(size, dtype=dtype),
            position=like.new_zeros(size, dtype=torch.int64),
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

    def with_room(self, capacity: int) -> Candidates:
        """For a pattern that has got this larger capacity since: slots that no entry uses have no score."""
        if self.at_entry is None or capacity <= self.at_entry.numel():
            return self
        room = self.at_entry.new_zeros(capacity - self.at_entry.numel())
        return replace(self, at_entry=torch.cat([self.at_entry, room]))

    def view(self, dtype: torch.dtype) -> tuple[int, ...]:
        """As launchers take them; dtype: of the score."""
        pointers = map(views.address, (self.at_entry, self.score, self.position, self.count))
        return *pointers, DTYPES[dtype], self.position.numel()

    def take_(
        self, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, tile: torch.Tensor | None, rows: range, seed: int = 0
    ) -> None:
        """Takes what is best of these rows: `tile` [len(rows), cols], or the random stream. Rows come in ascending order."""
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


class CandidateSink:
    """A sink (see `dense_grad`) that keeps only the best `count` positions. Works for one accumulation and one pattern.

    Attributes:
        candidates: of that accumulation; None before it, and after a second accumulation or a change of the pattern.
    """

    def __init__(self, weight: torch.Tensor, pattern: Callable[[], CsrPattern], count: int) -> None:
        self._weight, self._pattern, self._size = weight, pattern, count
        self.clear_()

    def clear_(self) -> None:
        self.candidates: Candidates | None = None
        self._spoiled = False

    def pattern_changed_(self) -> None:
        if self.candidates is not None:
            self._spoiled, self.candidates = True, None

    def add_(self, product: Product, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if self._spoiled or self.candidates is not None:
            self._spoiled, self.candidates = True, None
            return
        pattern, dtype = self._pattern(), score_dtype(self._weight.dtype)
        best = Candidates.empty(self._weight, pattern.capacity, self._size, dtype)
        for rows, tile in product.dense_grad_tiles(pairs, dtype):
            best.take_(pattern.row_ptr, pattern.col_idx, product.cols, tile, rows)
        self.candidates = best

    def kept(self) -> Candidates | None:
        return self.candidates

    def is_finite(self) -> bool:
        """No Inf or NaN: these rank first, so the candidates would hold one."""
        best = self.candidates
        return best is not None and all(bool(t.isfinite().all()) for t in (best.at_entry, best.score) if t is not None)


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
