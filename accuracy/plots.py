"""PNG plots of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .contenders import DENSE
from .table import Group, Table
from .tasks import Calibrated

MARKERS = "osv^D<>ph*X"


def plot_costs(table: Table, path: Path) -> None:
    """Score over training FLOPs: a line for each method, dense runs of all lengths in black."""
    figure, axes = _axes(f"{table.row.name}, {table.first_init}", "training FLOPs, relative to dense", table.row.unit)
    every = list(table.groups.values())
    dense = sorted((g.budget, g.score) for g in every if g.method == DENSE and g.budget is not None)
    _lines(axes, {DENSE: dense}, color="black")
    methods: dict[str, list[tuple[float, float]]] = {}
    for group in every:
        if group.budget is None and group.init == table.first_init:
            methods.setdefault(group.method, []).append((float(group.of("flops") or 0), group.score))
    _lines(axes, {name: sorted(points) for name, points in methods.items()})
    axes.set_xscale("log")
    _save(figure, axes, path)


def plot_schedules(groups: list[Group], row: Calibrated, path: Path) -> None:
    """Held-out loss over the mean density, at equal FLOPs: a line for each schedule."""
    figure, axes = _axes(f"{row.name}, {row.equal_flops:g} of the dense FLOPs", "mean density over the run", "held-out loss")
    lines: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        lines.setdefault(group.method, []).append((float(group.of("density") or 0), float(group.of("loss") or 0)))
    _lines(axes, {name: sorted(points) for name, points in lines.items()})
    _save(figure, axes, path)


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _lines(axes: Axes, lines: dict[str, list[tuple[float, float]]], **style: Any) -> None:
    for number, (name, points) in enumerate(lines.items()):
        if points:
            axes.plot(*zip(*points, strict=True), marker=MARKERS[number % len(MARKERS)], label=name, **style)


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
