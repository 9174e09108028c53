"""Where the time of a step goes: forward and backward of each layer, an arm below the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..amounts import Unit, measure, number, unit_for
from ..run import LayerTime
from .arms import Shown
from .bars import AROUND, EDGE, amount, amounts, key, name_rows
from .looks import drawn
from .svg import plot
from .words import percent, shortened, times

LAYERS = 10  # as many rows at most: layers that take longest have one each, the others are summed
_ROW = 46  # pixels
_BACKWARD = {"hatch": "/////", "alpha": 0.62}


@dataclass(frozen=True)
class Row:
    """A layer of an arm, and the reference's of the same name, if it has one. Seconds: forward, backward."""

    name: str
    detail: str
    own: tuple[float, float]
    reference: tuple[float, float] | None

    @property
    def longest(self) -> float:
        return max(sum(self.own), sum(self.reference or ()))

    @property
    def ratio(self) -> str:
        """To the reference's, in parentheses; "" where it has none."""
        return f" ({times(sum(self.own) / sum(self.reference))})" if self.reference and sum(self.reference) else ""


def rows(own: Sequence[LayerTime], reference: Sequence[LayerTime]) -> list[Row]:
    """A row for each layer of `own`, in its order; if there are too many, the last one is the sum of the shortest."""
    beside = {layer.name: _seconds(layer) for layer in reference}
    found = [Row(shortened(one.name, 32), _detail(one), _seconds(one), beside.get(one.name)) for one in own]
    if len(found) <= LAYERS:
        return found
    order = sorted(range(len(found)), key=lambda i: -found[i].longest)
    kept, short = (sorted(these) for these in (order[: LAYERS - 1], order[LAYERS - 1 :]))
    references = [row.reference for row in (found[i] for i in short) if row.reference is not None]
    before = _sum(references) if references else None
    others = Row(f"{len(short)} others", "none takes longer", _sum([found[i].own for i in short]), before)
    return [*(found[i] for i in kept), others]


def layers(one: Shown, reference: Shown) -> Markup | None:
    """The plot of an arm; None where its layers were not timed."""
    if not one.arm.layers:
        return None
    found = rows(one.arm.layers, reference.arm.layers)
    total = measure(sum(sum(row.own) for row in found), "seconds")
    title = f"forward and backward time of a step, layer by layer: {one.name} beside {reference.name}, {total} in all"
    return plot(f"layers-{one.key}", title, _ROW * len(found) + AROUND, lambda figure: _draw(figure, found, one, reference))


def _draw(figure: Figure, found: Sequence[Row], one: Shown, reference: Shown) -> None:
    axes = figure.add_subplot()
    longest = max(row.longest for row in found)
    unit = unit_for("seconds", [longest])
    _bars(axes, reference, [(i - 0.2, row.reference, "") for i, row in enumerate(found) if row.reference is not None], unit)
    _bars(axes, one, [(i + 0.2, row.own, row.ratio) for i, row in enumerate(found)], unit)
    name_rows(axes, [(row.name, row.detail) for row in found], _ROW, second="muted")
    amounts(axes, longest / unit.factor, f"time of a step, median ({unit.name})")
    both = [reference, one] if any(row.reference for row in found) else [one]
    handles = [Patch(facecolor=drawn(arm.look.color), label=shortened(arm.name, 28)) for arm in both]
    passes = [
        Patch(facecolor=drawn("muted"), label="forward"),
        Patch(facecolor=drawn("muted"), label="backward", **EDGE, **_BACKWARD),
    ]
    key(axes, [*handles, *passes])


def _bars(axes: Axes, arm: Shown, bars: Sequence[tuple[float, tuple[float, float], str]], unit: Unit) -> None:
    """Of one arm: where they are, seconds, and what is said beside their amount."""
    places = [y for y, _, _ in bars]
    forward, backward = ([seconds[i] / unit.factor for _, seconds, _ in bars] for i in (0, 1))
    axes.barh(places, forward, 0.34, color=drawn(arm.look.color), **EDGE)
    axes.barh(places, backward, 0.34, forward, color=drawn(arm.look.color), **EDGE, **_BACKWARD)
    for y, seconds, beside in bars:
        amount(axes, sum(seconds) / unit.factor, y, number(sum(seconds) / unit.factor) + beside)


def _seconds(layer: LayerTime) -> tuple[float, float]:
    return layer.forward_s, layer.backward_s


def _sum(all_seconds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(forward for forward, _ in all_seconds), sum(backward for _, backward in all_seconds)


def _detail(layer: LayerTime) -> str:
    shape = " × ".join(map(str, layer.shape))
    return shape if layer.layout is None else f"{shape}, {layer.layout}, {percent(layer.density)}"
