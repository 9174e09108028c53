"""What the arms did: tables, sentences that say whether the claims hold, plots, and a line of JSON per run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from sparse_ext.machine import describe

from .arms import Result, Task

Curve = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Summary:
    """One arm over its seeds: the score of each, and means of the rest."""

    arm: str
    steps: int
    scores: tuple[float, ...]
    step_s: float
    train_s: float
    state_bytes: int
    index_bytes: int
    flops: float
    curve: Curve

    @property
    def score(self) -> float:
        return mean(self.scores)


def summarize(results: list[Result]) -> dict[str, Summary]:
    """{arm: summary}, arms in their first order."""
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result.arm, []).append(result)
    return {name: _summary(name, runs) for name, runs in arms.items()}


def _summary(name: str, runs: list[Result]) -> Summary:
    first = runs[0]
    return Summary(
        name,
        first.steps,
        tuple(run.score for run in runs),
        mean(run.step_s for run in runs),
        mean(run.train_s for run in runs),
        first.state_bytes,
        first.index_bytes,
        first.flops,
        [tuple(map(mean, zip(*points, strict=True))) for points in zip(*(run.curve for run in runs), strict=True)],
    )


def table(task: Task, arms: dict[str, Summary], kind: str) -> Table:
    """The arms side by side; what is compared with the dense arm is the column before it."""
    dense = arms["dense"]
    seeds = f", mean of {task.seeds} seeds" if task.seeds > 1 else ""
    grid = Table(title=f"{task.name}: {kind}{seeds}, {torch.get_num_threads()} threads")
    grid.add_column("arm", no_wrap=True)
    for heading in (task.metric, "steps", "ms / step", "speed", "weights, grads,\noptimizer", "indices", "FLOPs", "train s"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for arm in arms.values():
        score = f"{arm.score:.2f}" if task.higher_is_better else f"{arm.score:.3f}"
        grid.add_row(
            arm.arm,
            score if task.seeds == 1 else f"{score} ± {stdev(arm.scores):.2f}",
            str(arm.steps),
            f"{arm.step_s * 1e3:.2f}",
            f"{dense.step_s / arm.step_s:.2f}x",
            f"{arm.state_bytes / 1e6:.2f} MB",
            f"{arm.index_bytes / 1e6:.2f} MB" if arm.index_bytes else "-",
            f"{arm.flops / dense.flops:.4f}",
            f"{arm.train_s:.1f}",
        )
    return grid


def nm24_claims(task: Task, arms: dict[str, Summary]) -> Iterator[tuple[bool, str]]:
    """The same of the 2:4 arms."""
    dense, *others = arms.values()
    for other in others:
        ahead, text = lead(task, other, dense)
        near = ahead > (-1.0 if task.higher_is_better else -0.1)
        bar = "1 point" if task.higher_is_better else "0.1 bits"
        yield near, f"{other.arm} is within {bar} of dense: {text}"


def cnn_claims(task: Task, arms: dict[str, Summary]) -> Iterator[tuple[bool, str]]:
    """The same of the convolutional network's arms."""
    dense, *near, static, rigl = arms.values()
    for arm in near:
        ahead, text = lead(task, arm, dense)
        yield ahead >= -0.5, f"{arm.arm}, is within half a point of dense: {text}"
    ahead, text = lead(task, rigl, static)
    yield ahead > 0, f"{rigl.arm}, is ahead of the static pattern: {text}"


def gcn_claims(task: Task, arms: dict[str, Summary]) -> Iterator[tuple[bool, str]]:
    """The same of the graph network's arms."""
    dense, *others = arms.values()
    for arm in others:
        ahead, text = lead(task, arm, dense)
        yield ahead >= -1.5, f"{arm.arm} is within 1.5 points of dense: {text}"


def csr_claims(task: Task, arms: dict[str, Summary]) -> Iterator[tuple[bool, str]]:
    """What this demo is there to show, and whether this run did."""
    dense, short, equal_seconds, static, rigl = arms.values()
    slowest = max(static.step_s, rigl.step_s)
    yield slowest < dense.step_s, f"a sparse step takes less time than a dense one: {dense.step_s / slowest:.2f}x as fast"
    others = (
        (static, "the static pattern"),
        (short, "dense training with the same FLOPs"),
        (equal_seconds, f"dense training that takes as long ({equal_seconds.train_s:.0f} s, and RigL {rigl.train_s:.0f} s)"),
    )
    for other, what in others:
        ahead, text = lead(task, rigl, other)
        yield ahead > 0, f"RigL is ahead of {what}: {text}"


def lead(task: Task, one: Summary, other: Summary) -> tuple[float, str]:
    """By how much one arm is better than another, and how sure that is.

    The arms of a seed share data and order, so they are compared seed by seed.
    """
    sign = 1 if task.higher_is_better else -1
    leads = [sign * (own - its) for own, its in zip(one.scores, other.scores, strict=True)]
    text = f"{mean(leads):+.3g} {task.metric}"
    if len(leads) == 1:
        return leads[0], f"{text} (one seed: no spread known)"
    ahead = sum(by > 0 for by in leads)
    return mean(leads), f"{text} (± {stdev(leads):.2g} from seed to seed, ahead in {ahead} of {len(leads)})"


def notes(task: Task) -> str:
    """What the table's columns count."""
    return (
        "ms / step: median; the arms train in turns of a few steps, so all saw the same machine. FLOPs: of the whole training, "
        f"forward and backward, relative to dense; RigL's include the dense gradient of {task.gradient_steps} of every "
        f"{task.update_interval} steps (until 75 % of the run), in which it also holds that gradient in memory. "
        "indices: where the non-zeros are, int32 and 16-bit views. train s: all steps and topology updates. "
        f"{task.caveat}"
    )


def plot(task: Task, arms: dict[str, Summary], kind: str, out: Path) -> Path:
    """The metric over steps and over training FLOPs, as a PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for arm in arms.values():
        steps, flops, scores = zip(*arm.curve, strict=True)
        left.plot(steps, scores, marker=".", label=arm.arm)
        right.plot(flops, scores, marker=".", label=arm.arm)
    _label(left, "steps", task.metric)
    _label(right, "training FLOPs", "")
    right.set_xscale("log")
    left.legend()
    figure.suptitle(f"{task.name}, {kind}")
    path = out / f"demo-{task.name}{'-nm24' if kind == '2:4' else ''}.png"
    figure.savefig(path, dpi=120)
    return path


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def write(task: Task, results: list[Result], out: Path) -> Path:
    """Appends a line per run, with the task's settings, machine, versions and commit."""
    path = out / "demo.jsonl"
    origin = {**describe("cpu"), "settings": asdict(task)}
    with path.open("a") as file:
        for result in results:
            file.write(json.dumps({"task": task.name, "metric": task.metric, **asdict(result), **origin}) + "\n")
    return path
