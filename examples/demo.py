"""`python -m examples.demo`: dense and sparse training side by side, on real data that is already on this machine.

Five arms: dense; dense with as many training FLOPs as RigL; dense with as many seconds; sparse with a static pattern; sparse
with RigL. For the convolutional network: dense; static, SET and RigL; static and RigL with fewer weights still. For the graph
network: dense; static, SET and RigL.
With --layout 2:4: dense; FST, S-STE and SR-STE, which keep a dense weight; RigL, which keeps a packed one.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import report
from .arms import Arm, Result, Run, Task, csr_arms, nm24_arms, train, zeros_of
from .chars import Chars
from .digits import Digits
from .digits_cnn import DigitsCNN, cnn_arms
from .digits_gcn import DigitsGCN, gcn_arms

TASKS: dict[str, Task] = {task.name: task for task in (Digits(), DigitsCNN(), DigitsGCN(), Chars())}
LAYOUTS = {"csr": (csr_arms, report.csr_claims), "2:4": (nm24_arms, report.nm24_claims)}
# Where a task has arms of its own: of which layout, and in whose place.
OWN = {
    (DigitsCNN.name, "csr"): (cnn_arms, report.cnn_claims),
    (DigitsGCN.name, "csr"): (gcn_arms, report.gcn_claims),
}
# Settings other than a task's own, whose run takes about ten minutes on two cores.
SIZES = {
    "full": {"digits": {}, "digits-cnn": {}, "digits-gcn": {}, "chars": {}},
    # About two minutes: the same comparison, with fewer seeds and a tenth of the steps.
    "default": {
        "digits": {"seeds": 3},
        "digits-cnn": {"seeds": 2},
        "digits-gcn": {"seeds": 2},
        "chars": {"steps": 200, "update_interval": 20, "gradient_steps": 8},
    },
    # Under a minute: shows that all works; too short to judge by.
    "quick": {
        "digits": {"seeds": 2},
        "digits-cnn": {"seeds": 1, "steps": 80},
        "digits-gcn": {"seeds": 1, "steps": 80},
        "chars": {"steps": 80, "update_interval": 20, "gradient_steps": 8},
    },
}


def train_with_bars(task: Task, arms: list[Arm], console: Console) -> list[Result]:
    """All seeds of a task, a progress bar for every arm."""
    columns = (
        TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps {task.fields[score]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    results: list[Result] = []
    with Progress(*columns, console=console) as progress:
        bars = {arm.name: progress.add_task(arm.name, total=arm.steps * task.seeds, score="") for arm in arms}

        def show(run: Run) -> None:
            score = f"{run.curve[-1][2]:.3f} {task.metric}" if run.curve else ""
            progress.update(bars[run.arm.name], completed=run.seed * run.arm.steps + run.step, score=score)

        for seed in range(task.seeds):
            results += train(task, arms, seed, show)
    return results


def run(task: Task, layout: str, out: Path, console: Console) -> None:
    """One task from training to table, plot and JSON lines."""
    arms_of, claims = OWN.get((task.name, layout), LAYOUTS[layout])
    contenders = arms_of(task)
    sparsities = sorted({zeros_of(task, arm) for arm in contenders})
    kind = "2:4" if layout == "2:4" else f"{' and '.join(f'{zeros:.0%}' for zeros in sparsities)} sparse"
    console.rule(f"{task.name}: {kind}")
    begin = time.perf_counter()
    results = train_with_bars(task, contenders, console)
    arms = report.summarize(results)
    console.print(report.table(task, arms, kind))
    for holds, sentence in claims(task, arms):
        console.print(f"[green]yes[/]  {sentence}" if holds else f"[bold red]NO[/]   not this time: {sentence}")
    console.print(report.notes(task), style="dim")
    files = report.plot(task, arms, kind, out), report.write(task, results, out)
    console.print(f"{' and '.join(map(str, files))}; {time.perf_counter() - begin:.0f} s\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--layout", choices=LAYOUTS, default="csr", help="csr: any pattern; 2:4: two of every four weights")
    parser.add_argument("--full", action="store_const", dest="size", const="full", default="default", help="the long runs")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", help="a minute: to see that all works")
    parser.add_argument("--seeds", type=int, help="how many runs of every arm, in place of the task's own number")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for plots and demo.jsonl (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    # Not a terminal: rich would guess 80 columns and cut the tables.
    console = Console() if Console().is_terminal else Console(width=140)
    for name in TASKS if options.task == "all" else [options.task]:
        choices = SIZES[options.size][name] | ({} if options.seeds is None else {"seeds": options.seeds})
        run(replace(TASKS[name], **choices), options.layout, options.out, console)


if __name__ == "__main__":
    main()
