"""An arm as a page shows it: its look, what it spent, and means over its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..quantity import TABLE
from ..record import Arm, Record
from ..run import Point, Run
from .looks import Look, looks


@dataclass(frozen=True, eq=False)
class Shown:
    """An arm, its look, and a word without spaces that is no other's, for ids."""

    arm: Arm
    look: Look
    key: str

    @property
    def name(self) -> str:
        return self.arm.name


@dataclass(frozen=True)
class Spent:
    """One of the quantities that an arm may save.

    Attributes:
        axis: what a plot says below its axis.
        in_all, by_then: where a run has it, and a point of its curve; None: points do not have it.
    """

    heading: str
    axis: str
    in_all: Callable[[Run], float | None]
    by_then: Callable[[Point], float | None] | None


# {one of QUANTITIES, and of UNITS}
SPENT = {
    "seconds": Spent("Time", "time of training and evaluation", TABLE["seconds"].of, lambda point: point.seconds_s),
    "flops": Spent("FLOPs", "FLOPs executed", TABLE["flops"].of, lambda point: point.flops),
    "joules": Spent("Energy", "energy, idle power included", TABLE["joules"].of, lambda point: point.joules),
    "bytes": Spent("Memory", "peak of a training step", TABLE["bytes"].of, None),
}


@dataclass(frozen=True)
class Curve:
    """Of a run, or the mean of several. `points`: {step: (what was spent by then, score)}; `end`: the same at the end."""

    points: dict[int, tuple[float, float]]
    end: tuple[float, float]

    @property
    def line(self) -> list[tuple[float, float]]:
        return [*self.points.values(), self.end]


def shown(record: Record) -> list[Shown]:
    return [Shown(arm, look, f"arm{i}") for i, (arm, look) in enumerate(zip(record.arms, looks(len(record.arms)), strict=True))]


def mean(runs: Sequence[Run], value: Callable[[Run], float | None]) -> float | None:
    """Of all runs; None where one of them does not know it."""
    values = [value(run) for run in runs]
    known = [one for one in values if one is not None]
    return fmean(known) if known and len(known) == len(values) else None


def curve(run: Run, spent: Spent, unit: float = 1.0) -> Curve | None:
    """None where what was spent in all is not known, or the score. Evaluations that do not know one of them are left out."""
    in_all, by_then = spent.in_all(run), spent.by_then
    if in_all is None or run.score is None or by_then is None:
        return None
    points = ((point.step, by_then(point), point.score) for point in run.curve if point.step < run.steps)
    known = {step: (x / unit, score) for step, x, score in points if x is not None and score is not None}
    return Curve(known, (in_all / unit, run.score))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """At the steps that all of them have."""
    steps = [step for step in curves[0].points if all(step in one.points for one in curves)]
    return Curve({step: _mean([one.points[step] for one in curves]) for step in steps}, _mean([one.end for one in curves]))


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(x for x, _ in points), fmean(score for _, score in points)
