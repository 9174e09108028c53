"""What memory holds: the peak of a training step, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..amounts import measure, number, unit_for
from ..run import Run
from .arms import Shown, mean
from .bars import AROUND, EDGE, amount, amounts, key, name_rows
from .looks import drawn
from .svg import plot
from .words import wrapped

_ROW = 38  # pixels


@dataclass(frozen=True)
class Part:
    """`attribute`: of `Memory`. `color`: a role."""

    name: str
    attribute: str
    color: str
    hatch: str = ""

    def of(self, run: Run) -> float:
        size: int = getattr(run.memory, self.attribute)
        return size


PARTS = (
    Part("weights", "weights", "part-1"),
    Part("indices", "indices", "part-2"),
    Part("gradients", "gradients", "part-3", "////"),
    Part("optimizer state", "optimizer_state", "part-4"),
    Part("activations", "activations", "part-5", "\\\\\\\\"),
)


def memory(arms: Sequence[Shown]) -> Markup:
    totals = [mean(one.arm.runs, lambda run: run.memory.total) or 0.0 for one in arms]
    amounts_of_arms = ", ".join(f"{one.name} {measure(total, 'bytes')}" for one, total in zip(arms, totals, strict=True))
    title = f"peak memory of a training step: {amounts_of_arms}"
    return plot("memory", title, _ROW * len(arms) + AROUND, lambda figure: _draw(figure, arms, totals))


def _draw(figure: Figure, arms: Sequence[Shown], totals: Sequence[float]) -> None:
    axes = figure.add_subplot()
    unit = unit_for("bytes", totals)
    places, left = list(range(len(arms))), [0.0] * len(arms)
    for part in PARTS:
        sizes = [(mean(one.arm.runs, part.of) or 0.0) / unit.factor for one in arms]
        axes.barh(places, sizes, 0.52, left, color=drawn(part.color), hatch=part.hatch, **EDGE)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    peaks = [total / unit.factor for total in totals]
    axes.vlines(peaks, [y - 0.33 for y in places], [y + 0.33 for y in places], color=drawn("ink"), linewidth=1.5)
    ends = [max(pair) for pair in zip(left, peaks, strict=True)]
    for y, end, peak in zip(places, ends, peaks, strict=True):
        amount(axes, end, y, number(peak))
    name_rows(axes, [wrapped(one.name, 20) for one in arms], _ROW)
    amounts(axes, max(ends), f"peak of a training step ({unit.name})")
    key(axes, [Patch(facecolor=drawn(part.color), hatch=part.hatch, label=part.name, **EDGE) for part in PARTS])
