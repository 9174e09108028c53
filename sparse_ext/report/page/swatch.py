"""The small line with a marker by which an arm is known in texts and tables."""

from __future__ import annotations

from markupsafe import Markup
from matplotlib.figure import Figure

from .looks import Look, drawn
from .svg import plot


def swatch(look: Look, name: str) -> Markup:
    """As its curve is drawn. The arm's name stands beside it."""
    return plot(f"swatch-{name}", "", 14, lambda figure: _draw(figure, look), width=38)


def _draw(figure: Figure, look: Look) -> None:
    figure.set_layout_engine(None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(0, 38)
    axes.set_ylim(0, 14)
    color = drawn(look.color)
    axes.plot([1, 37], [7, 7], color=color, linewidth=2, linestyle=look.dash, clip_on=False)
    axes.plot(
        19, 7, look.marker, color=color, markersize=10, markeredgecolor=drawn("surface"), markeredgewidth=1, clip_on=False
    )
