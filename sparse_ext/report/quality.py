"""How much worse one arm is than another, and what that says of its quality."""

from __future__ import annotations

from typing import NamedTuple

from . import figures, interval
from .quantity import by_seed
from .record import SAVED, SAVED_WITH_LOSS, UNKNOWN, Arm, Interval, Metric

# A spread is known of so many repeats; fewer have no verdict.
REPEATS = 3


class Quality(NamedTuple):
    """What is known of an arm's quality beside the reference's.

    Attributes:
        outcome: the verdict on an arm of this quality that has spent less.
        words: a sentence without its full stop.
    """

    outcome: str
    words: str


def too_few(found: Interval) -> str:
    """Why there is no verdict."""
    return f"a verdict needs {REPEATS} repeats, got {found.count}"


def scores(arm: Arm) -> dict[int, float] | None:
    """{seed: score}; None: one was not finite."""
    known = {seed: score for seed, score in by_seed(arm, lambda run: run.score).items() if score is not None}
    return known if len(known) == len(arm.runs) else None


def diverged(*arms: Arm) -> str:
    """Which runs of these have no finite score, in words."""
    runs = [f"{arm.name} with seed {run.seed}" for arm in arms for run in arm.runs if run.score is None]
    return f"the score of {figures.listed(runs)} was not finite"


def worse_by(arm: Arm, other: Arm, metric: Metric) -> Interval | None:
    """By how much the arm is worse, paired by seed, in the metric's units; negative: better. None: a score was not finite."""
    own, others = scores(arm), scores(other)
    if own is None or others is None:
        return None
    return interval.difference(others, own) if metric.higher_is_better else interval.difference(own, others)


def quality(arm: Arm, reference: Arm, metric: Metric) -> Quality:
    """Beside the reference: `verdict` has the rules."""
    loss = worse_by(arm, reference, metric)
    if loss is None:
        return Quality(UNKNOWN, f"quality is {figures.unknown(diverged(arm, reference))}")
    if loss.count < REPEATS or loss.low is None or loss.high is None:
        return Quality(UNKNOWN, f"quality is {figures.unknown(too_few(loss))}")
    alike = ", the same in every repeat" if figures.alike(loss) else ""
    amount = f"{figures.interval(loss)} in {metric.name}{alike}"
    tolerance = f"the tolerance of {figures.number(metric.tolerance)}"
    if loss.high <= metric.tolerance:
        word = "better" if loss.high < 0 else "equal"
        return Quality(SAVED, f"quality is {word}: a loss of {amount}, within {tolerance}")
    if loss.mean <= metric.tolerance:
        return Quality(SAVED_WITH_LOSS, f"quality is not settled: a loss of {amount}, whose upper end is beyond {tolerance}")
    return Quality(SAVED_WITH_LOSS, f"there is a quality loss of {amount}, beyond {tolerance}")
