"""Executes what is still to do, here or in several processes, and appends each result at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .contenders import DENSE
from .plan import PARTS, Filter, Rows, Spec, identity, key, steps_of
from .run import execute
from .store import append, load
from .tasks import Calibrated

Job = tuple[Spec, Calibrated]


def jobs_of(rows: list[Calibrated], parts: tuple[str, ...], only: Filter) -> Iterator[Job]:
    """Schedules come after all methods: how long they are is known from a run at full length."""
    for part in PARTS:
        for row in rows if part in parts else ():
            for spec in PARTS[part](row, only):
                yield spec, row


class Watch:
    """Hears of everything. This one shows nothing."""

    def starts(self, left: int, total: int, lines: int) -> None:
        """How many runs are to do, of how many, and how many lines the file has."""

    def steps(self, spec: Spec, step: int, steps: int) -> None:
        """How far the present run is; only of one that is executed here."""

    def ends(self, sentence: str, failed: bool) -> None:
        """What became of a run."""


class Runner:
    """Executes runs and keeps the results of all.

    Attributes:
        rows: the lines of the file.
        failed: a sentence for each run that raised; the others go on.
    """

    def __init__(self, out: Path, watch: Watch, processes: int = 1) -> None:
        self.out, self.watch, self.processes = out, watch, processes
        self.rows: Rows = load(out)
        self.failed: list[str] = []

    def run(self, jobs: list[Job]) -> None:
        """Those of which the file has no line."""
        done = {key(row) for row in self.rows}
        left = [(spec, row) for spec, row in jobs if key(identity(spec, row)) not in done]
        self.watch.starts(len(left), len(jobs), len(self.rows))
        for later in (False, True):
            group = [(spec, row) for spec, row in left if (spec.budget is not None and spec.method != DENSE) == later]
            if self.processes > 1:
                self._in_processes(group)
            else:
                self._here(group)

    def _here(self, group: list[Job]) -> None:
        for spec, row in group:
            self._finish(spec, lambda spec=spec, row=row: execute(spec, row, self._steps(spec, row), self.watch.steps))  # type: ignore[misc]

    def _in_processes(self, group: list[Job]) -> None:
        # "spawn": a fork would share torch's threads.
        with ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn")) as pool:
            futures = {}
            for spec, row in group:
                try:
                    futures[pool.submit(execute, spec, row, self._steps(spec, row))] = spec
                except ValueError as error:
                    self._fail(spec, error)
            for future in as_completed(futures):
                self._finish(futures[future], future.result)

    def _steps(self, spec: Spec, row: Calibrated) -> int:
        steps = steps_of(spec, row, self.rows)
        if steps is None:
            raise ValueError("expected a run of this method at full length first, got none; run --part methods")
        return steps

    def _finish(self, spec: Spec, result: Callable[[], Any]) -> None:
        try:
            row = result()
        except Exception as error:
            self._fail(spec, error)
            return
        append(self.out, row)
        self.rows.append(row)
        cost = f"{row['steps']} steps, FLOPs {row['flops']:.3f}, density {row['density']:.3f}"
        self.watch.ends(f"{row['score']:>8.3f} {row['metric']}  {spec}: {cost}", failed=False)

    def _fail(self, spec: Spec, error: Exception) -> None:
        self.failed.append(f"{spec}: {type(error).__name__}: {error}")
        self.watch.ends(self.failed[-1], failed=True)
