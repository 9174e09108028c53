"""Names at the ends of curves: each where it covers nothing, or left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from .svg import settle

Point = tuple[float, float]

# Where a name may stand, as seen from the end that it names, in pixels right and up; the best first.
_AROUND = (
    {"xytext": (10, 0), "ha": "left", "va": "center"},
    {"xytext": (0, 9), "ha": "center", "va": "bottom"},
    {"xytext": (0, -9), "ha": "center", "va": "top"},
    {"xytext": (-10, 0), "ha": "right", "va": "center"},
    {"xytext": (8, 7), "ha": "left", "va": "bottom"},
    {"xytext": (-8, 7), "ha": "right", "va": "bottom"},
    {"xytext": (8, -7), "ha": "left", "va": "top"},
    {"xytext": (-8, -7), "ha": "right", "va": "top"},
)
_LATER = 0.4  # a place later in the list is taken where it covers so much less, in samples of lines
_MOST = 20  # samples that a name may cover: a few lines across it
_APART = 4  # pixels between samples
_MARGIN = 3  # pixels between names
_END = 7  # pixels: half a marker and its margin


def name_ends(axes: Axes, ends: Sequence[tuple[str, Point]], lines: Sequence[Sequence[Point]]) -> None:
    """Writes names beside points of a plot that is otherwise complete. What fits nowhere is left out: the page has a key.

    Args:
        ends: names, and the points that they name.
        lines: what should not be covered.
    """
    settle(axes.get_figure())
    room = axes.get_window_extent().padded(1)
    samples = _samples(axes, lines)
    marks = [
        Bbox.from_bounds(x - _END, y - _END, 2 * _END, 2 * _END) for x, y in (axes.transData.transform(p) for _, p in ends)
    ]
    names: list[Bbox] = []
    for i, (name, point) in enumerate(ends):
        taken = [*marks[:i], *marks[i + 1 :], *names]
        places = []
        for rank, place in enumerate(_AROUND):
            box = _box(axes, name, point, place)
            covered = int(((samples >= box.min) & (samples <= box.max)).all(axis=1).sum())
            if room.count_contains(box.corners()) == 4 and not box.count_overlaps(taken) and covered <= _MOST:
                places.append((covered + _LATER * rank, rank, box))
        if places:
            _, rank, box = min(places, key=lambda found: found[:2])
            names.append(box.padded(_MARGIN))
            _write(axes, name, point, _AROUND[rank])


def _write(axes: Axes, name: str, point: Point, place: dict[str, Any]) -> Any:
    return axes.annotate(name, point, textcoords="offset points", gid="name", in_layout=False, annotation_clip=False, **place)


def _box(axes: Axes, name: str, point: Point, place: dict[str, Any]) -> Bbox:
    """Of the name in bold: the page sets it heavier than the rest."""
    text = _write(axes, name, point, place)
    text.set_weight("bold")
    box = text.get_window_extent()
    text.remove()
    return box


def _samples(axes: Axes, lines: Sequence[Sequence[Point]]) -> np.ndarray:
    """Points of the lines, about as far apart as said above."""
    found = [np.empty((0, 2))]
    for line in lines:
        for one, other in pairwise(axes.transData.transform(line)):
            steps = 1 + int(np.hypot(*(other - one)) / _APART)
            found.append(one + np.linspace(0, 1, steps, endpoint=False)[:, None] * (other - one))
    return np.concatenate(found)
