"""Arms that are the dense network as it is: for all steps, for fewer, or until it stops getting better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..task import Task
from .base import Contender, Matched, Size

if TYPE_CHECKING:
    from ..bench import Bench


@dataclass(frozen=True)
class Dense(Contender):
    """The dense network, as many steps as the config says."""

    KIND: ClassVar[str] = "dense"

    def about(self, size: Size) -> str:
        return f"the dense network, {size.steps} steps in {self.precision}"


@dataclass(frozen=True)
class EarlyStop(Contender):
    """The dense network, until its score has not become better for a while.

    Attributes:
        patience: after how many evaluations without a better score training ends.
        improvement: by how much a score must be better to count.
    """

    KIND: ClassVar[str] = "early stop"

    patience: int = 3
    improvement: float = 0.0

    def check(self, task: Task) -> None:
        super().check(task)
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1 evaluation, got {self.patience}")
        if self.improvement < 0:
            raise ValueError(f"improvement: expected at least 0, got {self.improvement}")

    def is_over(self, scores: Sequence[float], higher_is_better: bool) -> bool:
        """Whether the last `patience` scores are no better than the best one before."""
        gains = [score if higher_is_better else -score for score in scores]
        before, last = gains[: -self.patience], gains[-self.patience :]
        return bool(before) and max(last) <= max(before) + self.improvement

    def about(self, size: Size) -> str:
        return (
            f"the dense network in {self.precision}, stopped after {self.patience} evaluations without a better score, "
            f"after {size.steps} steps at most"
        )


@dataclass(frozen=True)
class Shorter(Matched):
    """The dense network, for as many steps as cost what the matched arm spends.

    Attributes:
        steps: how many; 0: found before training.
    """

    steps: int = 0

    def check(self, task: Task) -> None:
        super().check(task)
        if self.steps < 0:
            raise ValueError(f"steps: expected at least 1, or 0 for as many as the matched arm pays for, got {self.steps}")

    def size(self, bench: Bench) -> Size:
        return Size(self.steps or max(1, round(self.paid(bench))))

    def paid(self, bench: Bench) -> float:
        """How many steps cost as much as the matched arm's run."""
        raise NotImplementedError

    def about(self, size: Size) -> str:
        return f"the dense network, {size.steps} steps in {self.precision}: about as many {self.MATCHED} as the matched arm"


@dataclass(frozen=True)
class EqualFlops(Shorter):
    """As many steps as cost the FLOPs that the matched arm's method plans."""

    KIND: ClassVar[str] = "equal flops"
    MATCHED: ClassVar[str] = "flops"

    def paid(self, bench: Bench) -> float:
        return bench.rival_flops() / (bench.flops(self, Size(bench.steps)) / bench.steps)


@dataclass(frozen=True)
class EqualSeconds(Shorter):
    """As many steps as take the matched arm's seconds, by a timing in which both take turns."""

    KIND: ClassVar[str] = "equal seconds"
    MATCHED: ClassVar[str] = "seconds"

    def paid(self, bench: Bench) -> float:
        pair = bench.paces(self, Size(bench.steps))
        return (pair.rival_s - pair.own.evaluations_s) / pair.own.step_s
