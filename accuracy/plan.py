"""Which runs there are, and which of them are still to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from sparse_ext import METHODS

from .contenders import DENSE, Contender, contenders, method_of, schedules
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
        choices = {"class": type(method).__name__, **asdict(method)}
    return {**asdict(spec), "choices": choices, "task_steps": row.task.steps}


def key(columns: Mapping[str, Any]) -> str:
    """Of `identity`, or of a line of results. A choice that a line does not have, as it was added later, had its default."""
    choices = {**_defaults(columns["choices"].get("class")), **columns["choices"]}
    names = ("task", "method", "sparsity", "init", "seed", "budget", "task_steps")
    return json.dumps([choices, *(columns[name] for name in names)], sort_keys=True, default=str)


def _defaults(name: str | None) -> dict[str, Any]:
    """Of the registered class of this name."""
    kinds: list[Any] = [kind for kind in METHODS.values() if kind.__name__ == name]
    return {one.name: one.default for kind in kinds for one in fields(kind) if one.default is not MISSING}


def is_current(columns: Mapping[str, Any], row: Calibrated) -> bool:
    """Whether the task would have this line of results now: with these choices and steps, and its method still registered."""
    if columns["task"] != row.name or columns["method"] not in (DENSE, *contenders()):
        return False
    return key(columns) == key(identity(Spec(**{one.name: columns[one.name] for one in fields(Spec)}), row))


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
            tasks = every[name].tasks
            if tasks is None or row.name in tasks:
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
            for name, contender in only.methods_for(row, schedules()):
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
