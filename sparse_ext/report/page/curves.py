"""Quality over what was spent: a curve for each arm, the mean of its runs, which stand behind it faintly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..amounts import unit_for
from ..record import Record
from .arms import SPENT, Curve, Shown, curve, mean_curve
from .labels import name_ends
from .looks import drawn
from .svg import plot
from .words import short, shortened

_HEIGHT = 360
_LOGARITHMIC = 30  # times that the dearest arm costs what the cheapest does: both would not be seen side by side
_BEFORE = 0.8  # times the spread of the ends is what a plot shows of the worse scores before them


@dataclass(frozen=True)
class Quality:
    """`plot`: None where nothing is known of any arm. `missing`: the names of arms that are not in it."""

    heading: str
    plot: Markup | None
    missing: list[str]


def qualities(record: Record, arms: Sequence[Shown]) -> list[Quality]:
    """A plot for each quantity that is known during a run."""
    return [_quality(record, arms, name) for name, spent in SPENT.items() if spent.by_then]


def _quality(record: Record, arms: Sequence[Shown], quantity: str) -> Quality:
    spent = SPENT[quantity]
    unit = unit_for(quantity, [spent.in_all(run) for one in arms for run in one.arm.runs])
    found = {one: [curve(run, spent, unit.factor) for run in one.arm.runs] for one in arms}
    known = {one: [each for each in curves if each] for one, curves in found.items() if None not in curves}
    missing = [one.name for one in arms if one not in known]
    if not known:
        return Quality(spent.heading, None, missing)
    ends = ", ".join(f"{one.name} {short(mean_curve(curves).end[1], 4)}" for one, curves in known.items())
    title = f"{record.metric.name} over {spent.axis}; at the end: {ends}"
    label = f"{spent.axis} ({unit.name})"
    return Quality(
        spent.heading, plot(f"quality-{quantity}", title, _HEIGHT, lambda figure: _draw(figure, record, label, known)), missing
    )


def _draw(figure: Figure, record: Record, label: str, known: dict[Shown, list[Curve]]) -> None:
    axes = figure.add_subplot()
    means = {one: mean_curve(curves) for one, curves in known.items()}
    for one, curves in known.items():
        for each in curves if len(curves) > 1 else []:
            axes.plot(*zip(*each.line, strict=True), color=drawn(one.look.color), alpha=0.28, linewidth=1)
    for one, each in means.items():
        axes.plot(*zip(*each.line, strict=True), color=drawn(one.look.color), linewidth=2, linestyle=one.look.dash)
    for one, each in means.items():
        axes.plot(
            *each.end, one.look.marker, color=drawn(one.look.color), markersize=9, markeredgecolor=drawn("surface"),
            markeredgewidth=1.2, clip_on=False, zorder=3,
        )  # fmt: skip
    _spent_axis(axes, [each.end[0] for each in means.values()], label)
    _score_axis(axes, record, [each for curves in known.values() for each in curves])
    _equal_quality(axes, record)
    name_ends(axes, [(shortened(one.name), each.end) for one, each in means.items()], [each.line for each in means.values()])


def _spent_axis(axes: Axes, ends: Sequence[float], label: str) -> None:
    if min(ends) > 0 and max(ends) / min(ends) >= _LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        label += ", logarithmic"
    else:
        axes.set_xlim(0, max(ends) * 1.04 or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(label, gid="x-label")


def _score_axis(axes: Axes, record: Record, curves: Sequence[Curve]) -> None:
    """The ends of all runs, and before them as much as leaves these apart: where curves begin is seldom the question."""
    metric = record.metric
    sign = 1 if metric.higher_is_better else -1
    ends = [sign * each.end[1] for each in curves]
    every = [sign * score for each in curves for _, score in each.line]
    best = max(every)
    span = max(max(ends) - min(ends), 3 * metric.tolerance) or best - min(every) or abs(best) or 1.0
    worst = max(min(every), min(ends) - _BEFORE * span)
    axes.set_ylim(*sorted((sign * (worst - 0.06 * (best - worst)), sign * (best + 0.12 * span))))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    label = f"{shortened(metric.name, 48)} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    figure = axes.get_figure()
    figure.suptitle(label, x=0, ha="left", fontsize=12, color=drawn("muted"), gid="y-label")


def _equal_quality(axes: Axes, record: Record) -> None:
    """A band from the reference's score to the worst that still counts as equal."""
    score, tolerance = record.arms[0].score, record.metric.tolerance
    if score is not None and tolerance > 0:
        worst = score.mean - tolerance if record.metric.higher_is_better else score.mean + tolerance
        axes.axhspan(*sorted((score.mean, worst)), color=drawn("arm-0"), alpha=0.1, linewidth=0, zorder=0.5)
