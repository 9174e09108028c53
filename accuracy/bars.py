"""What must hold: the bars that the tasks were calibrated for, each with the sentence that says whether it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from .table import Group, Table, counted, digits_of, spread

Pick = Callable[[Table], Group | None]


@dataclass(frozen=True)
class Bar:
    """One bar: a score, or by how much `one` is better than `other`, must be at least `least`."""

    task: str
    text: str
    one: Pick
    least: float
    other: Pick | None = None

    def measured(self, table: Table) -> list[float] | None:
        """Of each seed that both have; None if a run is missing."""
        one, other = self.one(table), self.other(table) if self.other else None
        if one is None or (self.other is not None and other is None):
            return None
        if other is None:
            return list(one.scores.values())
        sign = 1 if table.row.task.higher_is_better else -1
        both = [seed for seed in one.scores if seed in other.scores]
        return [sign * (one.scores[seed] - other.scores[seed]) for seed in both] or None

    def verdict(self, table: Table) -> tuple[str, str]:
        """("holds", "fails" or "not measured", what was measured)."""
        found = self.measured(table)
        if found is None:
            return "not measured", "-"
        # Scores are shares of a few hundred digits: a difference of rounding is none.
        holds = mean(found) >= self.least - 1e-9
        return "holds" if holds else "**fails**", f"{spread(found, digits_of(table.row))} ({counted(len(found))})"


def _at(name: str, sparsity: float) -> Pick:
    return lambda table: table.method(name, sparsity)


def _dense(table: Table) -> Group | None:
    return table.dense()


def _score(task: str, name: str, sparsity: float, least: float) -> Bar:
    return Bar(task, f"{name} at {100 * sparsity:g}%: at least {least:g} %", _at(name, sparsity), least)


def _lead(task: str, one: str, other: str, sparsity: float, least: float, unit: str) -> Bar:
    by = f" by {least:g} {unit}" if least else ""
    text = f"{one} is not behind {other}{by}" if not least else f"{one} is ahead of {other}{by}"
    return Bar(task, f"{text} at {100 * sparsity:g}%", _at(one, sparsity), least, _at(other, sparsity))


def _near_dense(task: str, name: str, sparsity: float, points: float) -> Bar:
    where = f" at {100 * sparsity:g}%" if sparsity else ""
    return Bar(
        task, f"{name}{where} is within {points:g} point{'s' * (points != 1)} of dense", _at(name, sparsity), -points, _dense
    )


_CONSTANT = ("static", "set", "rigl")
BARS: tuple[Bar, ...] = (
    _score("digits", "rigl", 0.9, 95.5),
    _score("digits", "rigl", 0.95, 94.5),
    _score("digits", "rigl", 0.98, 91.0),
    _lead("digits", "rigl", "static", 0.95, 4.0, "points"),
    _lead("digits", "set", "static", 0.95, 2.5, "points"),
    _lead("digits", "gmp", "rigl", 0.98, 0.0, ""),
    _lead("digits", "rigl", "set", 0.98, 0.0, ""),
    _lead("digits", "set", "static", 0.98, 0.0, ""),
    _near_dense("digits", "est-dgm", 0.875, 1.0),
    _near_dense("digits", "sat", 0.0, 0.5),
    *(_near_dense("digits-cnn", name, sparsity, 0.5) for sparsity in (0.8, 0.9) for name in _CONSTANT),
    _near_dense("digits-cnn", "est-dgm", 0.875, 1.0),
    _near_dense("digits-cnn", "sat", 0.0, 0.5),
    *(_near_dense("digits-gcn", name, sparsity, 1.5) for sparsity in (0.8, 0.9, 0.95) for name in _CONSTANT),
    _lead("chars", "rigl", "static", 0.8, 0.08, "bits"),
    _lead("chars", "rigl", "static", 0.95, 0.05, "bits"),
)
