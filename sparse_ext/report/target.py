"""What each arm needs to become as good as the reference."""

from __future__ import annotations

from . import interval
from .quality import scores
from .record import Arm, Interval, Metric, Target
from .run import Point, Run


def target(arm: Arm, reference: Arm, metric: Metric) -> Target | None:
    """What the arm had spent at the first evaluation within the tolerance of the reference's mean score.

    A mean over fewer runs than all would be that of the lucky ones: it is None unless each of them got there.
    """
    finals = scores(reference)
    if finals is None:
        return None
    mean = interval.mean(list(finals.values())).mean
    score = mean - metric.tolerance if metric.higher_is_better else mean + metric.tolerance
    points = [point for run in arm.runs if (point := _first(run, score, metric)) is not None]
    if len(points) < len(arm.runs):
        missed = f"{len(arm.runs) - len(points)} of {len(arm.runs)} runs did not reach it"
        return Target(score, len(points), None, None, None, missed)
    seconds, flops = (interval.mean([of(point) for point in points]) for of in (_seconds, _flops))
    joules, why = _joules(arm, points)
    return Target(score, len(points), seconds, flops, joules, why)


def _seconds(point: Point) -> float:
    return point.seconds_s


def _flops(point: Point) -> float:
    return point.flops


def _joules(arm: Arm, points: list[Point]) -> tuple[Interval | None, str | None]:
    """Over the runs; or why not."""
    known = [point.joules for point in points if point.joules is not None]
    if len(known) == len(points):
        return interval.mean(known), None
    return None, next((run.energy.why for run in arm.runs if run.energy.why), "not every evaluation has joules")


def _first(run: Run, score: float, metric: Metric) -> Point | None:
    """The first evaluation that is as good as the score."""
    for point in run.curve:
        if point.score is not None and (point.score >= score if metric.higher_is_better else point.score <= score):
            return point
    return None
