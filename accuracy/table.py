"""Results as groups: a method with its choices at a sparsity and an initialisation, over its seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

from .contenders import DENSE
from .plan import Rows, is_current
from .tasks import Calibrated


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        scores: {seed: score}.
    """

    method: str
    sparsity: float
    init: str
    budget: float | None
    rows: tuple[dict[str, Any], ...]

    @property
    def scores(self) -> dict[int, float]:
        return {row["seed"]: row["score"] for row in self.rows}

    @property
    def score(self) -> float:
        return mean(self.scores.values())

    def of(self, column: str) -> float | None:
        """Mean over the seeds; None if it is missing."""
        values = [row[column] for row in self.rows]
        return None if None in values else mean(values)


class Table:
    """The groups of one task. The file may hold other lines: with fewer steps, or with choices that are no longer made."""

    def __init__(self, rows: Rows, row: Calibrated) -> None:
        self.row = row
        self.rows = [one for one in rows if is_current(one, row)]
        found: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
        for one in self.rows:  # of two the later one
            found.setdefault((one["method"], one["sparsity"], one["init"], one["budget"]), {})[one["seed"]] = one
        self.groups: dict[tuple[Any, ...], Group] = {}
        for at, of in found.items():
            method, sparsity, init, budget = at
            self.groups[at] = Group(method, sparsity, init, budget, tuple(of[seed] for seed in sorted(of)))

    def dense(self, budget: float = 1.0) -> Group | None:
        return self.groups.get((DENSE, 0.0, "", budget))

    def method(self, name: str, sparsity: float, init: str | None = None) -> Group | None:
        """At full length; init None: the one for which the bars are."""
        return self.groups.get((name, sparsity, self.first_init if init is None else init, None))

    @property
    def first_init(self) -> str:
        return next(iter(self.row.inits))

    def names(self, init: str) -> list[str]:
        """Of the methods, in the order of the first run."""
        return list(dict.fromkeys(g.method for g in self.groups.values() if g.init == init and g.budget is None))

    def sparsities(self, init: str) -> list[float]:
        return sorted({g.sparsity for g in self.groups.values() if g.init == init and g.budget is None})

    def at_share(self, share: float | None) -> float | None:
        """Mean score of dense training with this share of its FLOPs or seconds, linear in the logarithm between budgets.

        None outside the budgets that were run.
        """
        points = sorted((g.budget, g.score) for g in self.groups.values() if g.method == DENSE and g.budget is not None)
        if share is None:
            return None
        for (low, a), (high, b) in pairwise(points):
            if low <= share <= high:
                return a + (b - a) * math.log(share / low) / math.log(high / low)
        return None


def digits_of(row: Calibrated) -> int:
    """Decimal places of a score."""
    return 2 if row.task.higher_is_better else 3


def spread(values: list[float], places: int) -> str:
    """Mean, and standard deviation where there are several."""
    text = f"{mean(values):.{places}f}"
    return f"{text} ± {stdev(values):.{places}f}" if len(values) > 1 else text


def counted(seeds: int) -> str:
    return f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"


def cell(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
