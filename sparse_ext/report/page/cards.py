"""What each arm saved: of each quantity the verdict, beside the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import figures
from ..amounts import measure
from ..headline import is_told
from ..record import NOT_SAVED, QUANTITIES, SAVED, SAVED_WITH_LOSS, UNKNOWN, Interval, Record
from .arms import SPENT, Shown, mean
from .scores import Scores
from .words import between, times

STYLES = {SAVED: "saved", SAVED_WITH_LOSS: "loss", NOT_SAVED: "not-saved", UNKNOWN: "unknown"}
_END = 2.0  # times the reference's: where the strip of a ratio ends


@dataclass(frozen=True)
class Strip:
    """Where a ratio and its interval lie on a strip from 0 to twice the reference's, in per cent."""

    mean: float
    low: float
    width: float


@dataclass(frozen=True)
class Ratio:
    """To the reference's. `interval`: None with one repeat."""

    mean: str
    interval: str | None
    strip: Strip


@dataclass(frozen=True)
class Quantity:
    """What an arm spent of it.

    Attributes:
        style: the class of its verdict; None: the reference has none.
        told: whether the headline tells the sentence's reason.
    """

    heading: str
    spent: str
    style: str | None = None
    outcome: str | None = None
    ratio: Ratio | None = None
    sentence: str = ""
    told: bool = False


@dataclass(frozen=True)
class Card:
    """An arm. `interval`: of its score. `loss`: in words; None for the reference."""

    shown: Shown
    score: str
    interval: str | None
    loss: str | None
    quantities: list[Quantity]


def cards(record: Record, arms: Sequence[Shown]) -> list[Card]:
    scores = Scores.of(record)
    return [
        Card(
            one, scores.mean(one.arm), scores.interval(one.arm.score), scores.loss(one.arm),
            [_quantity(one, name, record) for name in QUANTITIES],
        )
        for one in arms
    ]  # fmt: skip


def _quantity(one: Shown, name: str, record: Record) -> Quantity:
    heading, spent = SPENT[name].heading, measure(mean(one.arm.runs, SPENT[name].in_all), name)
    verdict = one.arm.verdicts.get(name)
    if verdict is None:
        return Quantity(heading, spent)
    ratio = None if verdict.ratio is None else _ratio(verdict.ratio)
    return Quantity(heading, spent, STYLES[verdict.outcome], verdict.outcome, ratio, verdict.sentence, is_told(verdict, record))


def _ratio(ratio: Interval) -> Ratio:
    low, high = (ratio.mean if end is None else end for end in (ratio.low, ratio.high))
    start, middle, end = (round(100 * min(max(x, 0.0), _END) / _END, 2) for x in (low, ratio.mean, high))
    return Ratio(times(ratio.mean), _interval(ratio), Strip(middle, start, round(end - start, 2)))


def _interval(ratio: Interval) -> str | None:
    if ratio.low is None or ratio.high is None:
        return None
    return "in every repeat" if figures.alike(ratio) else between(ratio.low, ratio.high)
