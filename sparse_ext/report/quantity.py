"""What is spent: the table of quantities that have a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import figures, interval
from .record import Arm, Interval
from .run import Run

T = TypeVar("T")


class Quantity(NamedTuple):
    """A row.

    Attributes:
        words: as it is called in sentences.
        of: what a run spent; None: unknown.
        why: why a run's is unknown.
        aside: what else is to be said of an arm beside the reference: whole sentences, or nothing.
    """

    words: str
    of: Callable[[Run], float | None]
    why: Callable[[Run], str | None]
    aside: Callable[[Arm, Arm], str]


def by_seed(arm: Arm, of: Callable[[Run], T]) -> dict[int, T]:
    """{seed: a value of its run}."""
    return {run.seed: of(run) for run in arm.runs}


class Compared(NamedTuple):
    """The ratio of what two arms spent, paired by seed; None: `why` says why it is unknown."""

    ratio: Interval | None
    why: str | None


def compared(quantity: Quantity, arm: Arm, other: Arm) -> Compared:
    """The arm's over the other's, of one quantity."""
    known: list[dict[int, float]] = []
    for one in (arm, other):
        for run in one.runs:
            value = quantity.of(run)
            if value is None:
                return Compared(None, quantity.why(run) or f"{one.name} has no {quantity.words} with seed {run.seed}")
            if not value > 0:
                found = f"{one.name} has {figures.number(value)} {quantity.words} with seed {run.seed}"
                return Compared(None, f"{found}, and a ratio needs more than 0")
        known.append({seed: value for seed, value in by_seed(one, quantity.of).items() if value is not None})
    return Compared(interval.ratio(*known), None)


def _without_idle(arm: Arm, reference: Arm) -> str:
    """Joules once more, without what the machine would have used at rest; and whether they are estimates."""
    estimated = any(run.energy.estimated for one in (arm, reference) for run in one.runs)
    return _net(arm, reference) + " The joules are estimated, not counted." * estimated


def _net(arm: Arm, reference: Arm) -> str:
    values: list[dict[int, float]] = []
    for one in (arm, reference):
        net = {run.seed: run.energy.net_j for run in one.runs}
        known = {seed: joules for seed, joules in net.items() if joules is not None}
        if len(known) < len(net):
            return ""
        for seed, joules in known.items():
            if joules <= 0:
                found = f"{figures.number(joules)} joules remain of {one.name} with seed {seed}"
                return f" Less the idle machine's share, {found}: that is noise, so their ratio is unknown."
        values.append(known)
    ratio = figures.interval(interval.ratio(*values))
    return f" Less the idle machine's share: {ratio}."


def _always_known(run: Run) -> None:
    """Nothing is unknown."""


def _nothing(arm: Arm, reference: Arm) -> str:
    return ""


# By the names of record.QUANTITIES, in their order.
TABLE = {
    "seconds": Quantity("seconds", lambda run: run.seconds.total_s, _always_known, _nothing),
    "flops": Quantity("FLOPs", lambda run: run.flops, _always_known, _nothing),
    "joules": Quantity("joules", lambda run: run.energy.gross_j, lambda run: run.energy.why, _without_idle),
    "bytes": Quantity("bytes", lambda run: run.memory.total, _always_known, _nothing),
}
