"""Which runs there are, and which of them are still to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .contenders import DENSE, SCHEDULES, Contender, contenders, method_of
from .tasks import Calibrated

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Spec:
    """One run.

    Attributes:
        budget: training FLOPs relative to the dense run's that it may spend; None: what the task's number of steps costs.
    """

    task: str
    method: str
    sparsity: float
    init: str
    seed: int
    budget: float | None = None

    def __str__(self) -> str:
        spent = "" if self.budget is None else f", {self.budget:g} of dense's FLOPs"
        kind = "" if self.method == DENSE else f" {self.sparsity:.1%} {self.init}"
        return f"{self.task}: {self.method}{kind}{spent}, seed {self.seed}"


def identity(spec: Spec, row: Calibrated) -> dict[str, Any]:
    """What makes two runs the same one; these columns stand in every line of results."""
    choices: dict[str, Any] = {}
    if spec.method != DENSE:
        method = method_of(spec.method, contenders()[spec.method], row.task)
        choices = {"class": type(method).__name__, **asdict(method)}  # type: ignore[call-overload]
    return {**asdict(spec), "choices": choices, "task_steps": row.task.steps}


def key(columns: Mapping[str, Any]) -> str:
    """Of `identity`, or of a line of results."""
    names = ("task", "method", "sparsity", "init", "seed", "budget", "choices", "task_steps")
    return json.dumps([columns[name] for name in names], sort_keys=True, default=str)


@dataclass(frozen=True)
class Filter:
    """Of what there is to run; None: all, or a task's own number."""

    methods: tuple[str, ...] | None = None
    sparsities: tuple[float, ...] | None = None
    inits: tuple[str, ...] | None = None
    seeds: int | None = None

    def methods_for(self, row: Calibrated, names: Iterable[str]) -> Iterator[tuple[str, Contender]]:
        """Those of these contenders that are run on a task."""
        every = contenders()
        for name in names:
            if name not in every or (self.methods is not None and name not in self.methods):
                continue
            if every[name].tasks is None or row.name in every[name].tasks:
                yield name, every[name]

    def sparsities_of(self, contender: Contender, row: Calibrated) -> tuple[float, ...]:
        asked = self.sparsities or row.sparsities
        return asked if contender.sparsities is None else contender.sparsities

    def seeds_of(self, row: Calibrated) -> Iterator[tuple[str, int]]:
        """(init, number of seeds)."""
        for init, seeds in row.inits.items():
            if self.inits is None or init in self.inits:
                yield init, seeds if self.seeds is None else self.seeds


def methods_part(row: Calibrated, only: Filter) -> Iterator[Spec]:
    """Dense at every budget, and each method at each sparsity; seed by seed, so that a run that is stopped has whole seeds."""
    counts = dict(only.seeds_of(row))
    for seed in range(max(counts.values(), default=0)):
        if only.methods is None or DENSE in only.methods:
            for budget in row.budgets:
                yield Spec(row.name, DENSE, 0.0, "", seed, budget)
        for init, seeds in counts.items():
            if seed < seeds:
                for name, contender in only.methods_for(row, contenders()):
                    for sparsity in only.sparsities_of(contender, row):
                        yield Spec(row.name, name, sparsity, init, seed)


def schedules_part(row: Calibrated, only: Filter) -> Iterator[Spec]:
    """Each schedule at each sparsity, as long as the task's equal_flops last."""
    for init, seeds in list(only.seeds_of(row))[:1]:
        for seed in range(seeds if row.equal_flops else 0):
            for name, contender in only.methods_for(row, SCHEDULES):
                for sparsity in only.sparsities_of(contender, row):
                    yield Spec(row.name, name, sparsity, init, seed, row.equal_flops)


PARTS = {"methods": methods_part, "schedules": schedules_part}


def steps_of(spec: Spec, row: Calibrated, rows: Rows) -> int | None:
    """How many steps the budget pays for; None while the run at full length is missing that tells what a step costs."""
    if spec.budget is None:
        return row.task.steps
    share = 1.0
    if spec.method != DENSE:
        wanted = identity(Spec(spec.task, spec.method, spec.sparsity, spec.init, 0), row)
        found = [one["flops"] for one in rows if key({**one, "seed": 0}) == key(wanted)]
        if not found:
            return None
        share = found[0]
    return max(1, round(row.task.steps * spec.budget / share))
