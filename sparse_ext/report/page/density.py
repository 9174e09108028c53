"""Density over time: a row for each arm that is sparse, with its average."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..run import Run
from .arms import Shown, mean
from .looks import drawn
from .svg import plot
from .words import percent, short, shortened

_ROW, _AROUND = 68, 56  # pixels of a row, and of the axis below
_LEAST = 180


def density(arms: Sequence[Shown]) -> Markup | None:
    """The plot of the arms that were ever sparse; None where there is none."""
    sparse = [one for one in arms if any(point.density < 1 for run in one.arm.runs for point in run.density)]
    if not sparse:
        return None
    title = "density over training steps; on average " + ", ".join(f"{one.name} {percent(_average(one))}" for one in sparse)
    return plot("density", title, max(_LEAST, _ROW * len(sparse) + _AROUND), lambda figure: _draw(figure, sparse))


def mean_density(runs: Sequence[Run]) -> tuple[list[int], list[float]]:
    """Mean over the runs, which are steps: from each of these steps on it is that. It ends with the longest run."""
    steps = sorted({point.step for run in runs for point in run.density})
    values = [fmean(_at(run, step) for run in runs) for step in steps]
    return [*steps, max(run.steps for run in runs)], [*values, values[-1]]


def _at(run: Run, step: int) -> float:
    return next((point.density for point in reversed(run.density) if point.step <= step), 1.0)


def _average(one: Shown) -> float:
    return mean(one.arm.runs, lambda run: run.average_density) or 0.0


def _draw(figure: Figure, sparse: Sequence[Shown]) -> None:
    series = [mean_density(one.arm.runs) for one in sparse]
    figure.get_layout_engine().set(hspace=0.2)
    rows = figure.subplots(len(sparse), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, one, (steps, values) in zip(rows, sparse, series, strict=True):
        color = drawn(one.look.color)
        axes.fill_between(steps, values, step="post", color=color, alpha=0.22, linewidth=0)
        axes.step(steps, values, where="post", color=color, linewidth=1.8)
        average = _average(one)
        axes.axhline(average, color=drawn("ink"), linewidth=1, linestyle=(0, (1, 2)))
        axes.set_title(shortened(one.name, 40), loc="left", fontsize=12, pad=5)
        axes.set_title(f"average {percent(average)}", loc="right", fontsize=12, pad=5, color=drawn("muted"))
        axes.set_xlim(0, max(steps[-1] for steps, _ in series))
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1], ["0 %", "100 %"])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.grid(axis="x", visible=False)
    rows[-1].set_xlabel("training steps", gid="x-label")
