"""An `Estimate` as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sparse_ext.report import table

from .result import Estimate, LayerEstimate, together

UNKNOWN = "unknown"

# What is shown of all layers together: (title, what of a Cost).
TOTALS: tuple[tuple[str, Callable[[Any], float | None], str], ...] = (
    ("weights", lambda cost: cost.bytes.weights, "B"),
    ("indices", lambda cost: cost.bytes.indices, "B"),
    ("gradients", lambda cost: cost.bytes.gradients, "B"),
    ("optimizer state", lambda cost: cost.bytes.optimizer_state, "B"),
    ("for the method", lambda cost: cost.bytes.method, "B"),
    ("all of these", lambda cost: cost.bytes.total, "B"),
    ("sent in a step", lambda cost: cost.communication.step, "B"),
    ("sent for an update", lambda cost: cost.communication.update, "B"),
    ("forward pass", lambda cost: cost.flops.forward, "FLOPs"),
    ("training step", lambda cost: cost.flops.training, "FLOPs"),
    ("observing step", lambda cost: cost.flops.observing, "FLOPs"),
)


def formatted(estimate: Estimate) -> str:
    """Layers that are alike but for numbers in their names share a line, which has their sums."""
    alike: dict[Any, list[LayerEstimate]] = {}
    for row in estimate.layers:
        alike.setdefault(replace(row, name=re.sub(r"\d+", "*", row.name)), []).append(row)
    head = ["layer", "shape", "density", "layout", "bytes dense", "sparse", "FLOPs dense", "sparse", "seconds"]
    layers = table.terminal(head, [_cells(rows) for rows in alike.values()], right=(2, 4, 5, 6, 7, 8))
    model = estimate.model
    totals = []
    for title, of, unit in TOTALS:
        totals.append([title, *(_amount(value, unit) for value in (of(model.dense), of(model.sparse))), _share(of, model)])
    totals.append(["products' seconds", "", "", _ratio(model.speed.step)])
    better = [f"{_named(rows)}: {rows[0].dense_is_better}" for rows in alike.values() if rows[0].dense_is_better is not None]
    unit = f"of one of {estimate.ranks} ranks" if estimate.ranks > 1 else "of one process"
    how = f"bytes and FLOPs {unit}; FLOPs of a training step, as {estimate.method} plans {estimate.total_steps} steps"
    whole = table.terminal(["whole model", "dense", "sparse", "sparse/dense"], totals, right=(1, 2, 3))
    lines = [layers, f"{how}, with {estimate.optimizer}", "", whole, ""]
    return "\n".join([*lines, *better, *estimate.notes, estimate.conclusion])


def _cells(rows: Sequence[LayerEstimate]) -> list[str]:
    first, total = rows[0], together("", rows)
    return [
        _named(rows),
        "" if first.shape is None else " x ".join(map(str, first.shape)),
        f"{first.density:.2%}",
        first.layout or "dense",
        _amount(total.dense.bytes.total, "B"),
        _amount(total.sparse.bytes.total, "B"),
        _amount(total.dense.flops.training, ""),
        _amount(total.sparse.flops.training, ""),
        _ratio(first.speed.step),
    ]


def _named(rows: Sequence[LayerEstimate]) -> str:
    return rows[0].name if len(rows) == 1 else f"{re.sub(r'[0-9]+', '*', rows[0].name)} ({len(rows)})"


def _amount(value: float | None, unit: str) -> str:
    """With three digits and a unit: 1.23 GB."""
    if value is None:
        return UNKNOWN
    for letter, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def _share(of: Callable[[Any], float | None], model: LayerEstimate) -> str:
    dense, sparse = of(model.dense), of(model.sparse)
    return "" if not dense or sparse is None else f"{sparse / dense:.3f}"


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
