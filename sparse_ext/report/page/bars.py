"""What plots of bars share: names on the left, an axis of amounts below, amounts at the ends of bars, a key above."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .looks import drawn
from .words import short

AROUND = 84  # pixels for the axis below and the key above
EDGE = {"edgecolor": drawn("surface"), "linewidth": 0.8}
_LINE = 15  # pixels from one line of a name to the next
_ROOM = 1.27  # times the largest amount is what the axis has room for: amounts are written at the ends of bars


def name_rows(axes: Axes, names: Sequence[Sequence[str]], height: float, second: str = "ink") -> None:
    """Names the rows 0, 1, ... of bars, from top to bottom.

    Args:
        names: of each row, its lines.
        height: of a row, in pixels.
        second: the role whose colour lines after the first have.
    """
    lines = [
        (row + (i - (len(these) - 1) / 2) * _LINE / height, text, "ink" if i == 0 else second)
        for row, these in enumerate(names)
        for i, text in enumerate(these)
    ]
    axes.set_yticks([y for y, _, _ in lines], [text for _, text, _ in lines])
    for label, (_, _, role) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_color(drawn(role))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)


def amount(axes: Axes, x: float, y: float, text: str) -> None:
    """Writes what a bar that ends here amounts to."""
    axes.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", size=11, gid="amount")


def amounts(axes: Axes, largest: float, label: str) -> None:
    """The axis below. `label`: with its unit."""
    axes.set_xlim(0, largest * _ROOM or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.spines.bottom.set_visible(False)
    axes.set_xlabel(label, gid="x-label")


def key(axes: Axes, handles: Sequence[Patch]) -> None:
    """Above all bars, in one line."""
    axes.get_figure().legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=11, handlelength=1.1,
        handleheight=0.9, columnspacing=1.1, handletextpad=0.45, borderaxespad=0.25, borderpad=0,
    )  # fmt: skip
