"""Scores with the digits that matter: two of the tolerance, within which they count as equal."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10

from ..amounts import UNKNOWN, fixed
from ..record import Arm, Interval, Record
from .arms import mean


@dataclass(frozen=True)
class Scores:
    """`decimals`: after the point, of all scores of a record."""

    decimals: int

    @staticmethod
    def of(record: Record) -> Scores:
        """Without a tolerance: two digits of the smallest loss; if there is none, four of the reference's score."""
        losses = [abs(arm.loss.mean) for arm in record.arms if arm.loss is not None and arm.loss.mean != 0]
        hundredth = abs(mean(record.arms[0].runs, lambda run: run.score) or 1.0) / 100
        return Scores(1 - floor(log10(record.metric.tolerance or min(losses, default=hundredth))))

    def text(self, score: float | None) -> str:
        return UNKNOWN if score is None else fixed(score, self.decimals)

    def mean(self, arm: Arm) -> str:
        return self.text(arm.score.mean if arm.score else mean(arm.runs, lambda run: run.score))

    def interval(self, interval: Interval | None) -> str | None:
        """None where it is not known: there was one repeat only, or a score was not finite."""
        if interval is None or interval.low is None or interval.high is None:
            return None
        return f"{self.text(interval.low)} to {self.text(interval.high)}"

    def loss(self, arm: Arm) -> str | None:
        """In words; None for the reference, and where a score was not finite."""
        if arm.loss is None:
            return None
        size = self.text(abs(arm.loss.mean))
        if not size.strip("0."):
            return "the same"
        return f"{'worse' if arm.loss.mean > 0 else 'better'} by {size}"
