"""`python -m accuracy`: runs what is not yet in the file of results, then writes the report from that file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import report
from .contenders import DENSE, contenders
from .plan import PARTS, Filter, Spec
from .runner import Runner, Watch, jobs_of
from .tasks import TASKS, Calibrated, quick

RESULTS, DOCS = Path("bench/results/accuracy.jsonl"), Path("docs")
QUICK = Path("out/accuracy")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, _names(text)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m accuracy", description=__doc__)
    parser.add_argument("--task", type=_names, default=tuple(TASKS), help=f"some of {', '.join(TASKS)}; default: all")
    parser.add_argument(
        "--part", type=_names, default=tuple(PARTS), help="methods: all of them; schedules: some of them at equal FLOPs"
    )
    parser.add_argument("--methods", type=_names, help=f"some of {DENSE}, {', '.join(contenders())}; default: all")
    parser.add_argument("--sparsities", type=_numbers, help="such as 0.8,0.9")
    parser.add_argument("--inits", type=_names, help="masked, variance")
    parser.add_argument("--seeds", type=int, help="how many runs of each")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="a minute: to see that all works; results in out/accuracy")
    parser.add_argument("--report", action="store_true", help="runs nothing, writes the report of the results that are there")
    parser.add_argument("--out", type=Path, help=f"file of results (default: {RESULTS})")
    parser.add_argument("--docs", type=Path, help=f"folder of accuracy.md and plots/accuracy (default: {DOCS})")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """A name that is not known would silently run nothing."""
    inits = {init for row in TASKS.values() for init in row.inits}
    known: dict[str, Iterable[str]] = {"task": TASKS, "part": PARTS, "methods": {DENSE, *contenders()}, "inits": inits}
    for option, names in known.items():
        if wrong := set(getattr(options, option) or ()) - set(names):
            parser.error(f"--{option}: expected some of {', '.join(sorted(names))}; got {', '.join(sorted(wrong))}")


class Bars(Watch):
    """Two progress bars, of all runs and of the present one, and a line for each run that is over."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.all = progress.add_task("runs", total=None)
        self.own: TaskID | None = None

    def starts(self, left: int, total: int, lines: int) -> None:
        self.progress.console.print(f"{left} of {total} runs to do; the file has {lines} lines")
        self.progress.update(self.all, total=left)

    def steps(self, spec: Spec, step: int, steps: int) -> None:
        if self.own is None:
            self.own = self.progress.add_task("", total=steps)
        self.progress.update(self.own, description=str(spec), completed=step, total=steps)

    def ends(self, sentence: str, failed: bool) -> None:
        self.progress.console.print(sentence, style="bold red" if failed else None, highlight=False, markup=False)
        self.progress.advance(self.all)


def _run(options: argparse.Namespace, out: Path, tasks: list[Calibrated], console: Console) -> Runner:
    only = Filter(options.methods, options.sparsities, options.inits, options.seeds)
    columns = (
        TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        runner = Runner(out, Bars(progress), options.jobs)
        runner.run([] if options.report else list(jobs_of(tasks, options.part, only)))
    return runner


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    out = options.out or (QUICK / RESULTS.name if options.quick else RESULTS)
    docs = options.docs or (QUICK if options.quick else DOCS)
    tasks = {name: quick(row) if options.quick else row for name, row in TASKS.items()}
    # Not a terminal: rich would guess 80 columns.
    console = Console() if Console().is_terminal else Console(width=140)
    runner = _run(options, out, [tasks[name] for name in options.task], console)
    console.print(f"{report.write(runner.rows, tasks, docs)}, from the {len(runner.rows)} runs in {out}")
    if runner.failed:
        sys.exit(f"{len(runner.failed)} runs failed:\n" + "\n".join(runner.failed))


if __name__ == "__main__":
    main()
