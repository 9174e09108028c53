"""An `Estimate` as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sparse_ext.report import table
from sparse_ext.report.amounts import UNKNOWN, measure

from .result import Estimate, LayerEstimate, together

# What is shown of all layers together: (title, what of a Cost, its quantity).
TOTALS: tuple[tuple[str, Callable[[Any], float | None], str], ...] = (
    ("weights", lambda cost: cost.bytes.weights, "bytes"),
    ("indices", lambda cost: cost.bytes.indices, "bytes"),
    ("gradients", lambda cost: cost.bytes.gradients, "bytes"),
    ("optimizer state", lambda cost: cost.bytes.optimizer_state, "bytes"),
    ("for the method", lambda cost: cost.bytes.method, "bytes"),
    ("all of these", lambda cost: cost.bytes.total, "bytes"),
    ("sent in a step", lambda cost: cost.communication.step, "bytes"),
    ("sent for an update", lambda cost: cost.communication.update, "bytes"),
    ("forward pass", lambda cost: cost.flops.forward, "flops"),
    ("training step", lambda cost: cost.flops.training, "flops"),
    ("observing step", lambda cost: cost.flops.observing, "flops"),
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
    for title, of, quantity in TOTALS:
        totals.append([title, *(measure(value, quantity) for value in (of(model.dense), of(model.sparse))), _share(of, model)])
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
        measure(total.dense.bytes.total, "bytes"),
        measure(total.sparse.bytes.total, "bytes"),
        measure(total.dense.flops.training, "flops"),
        measure(total.sparse.flops.training, "flops"),
        _ratio(first.speed.step),
    ]


def _named(rows: Sequence[LayerEstimate]) -> str:
    return rows[0].name if len(rows) == 1 else f"{re.sub(r'[0-9]+', '*', rows[0].name)} ({len(rows)})"


def _share(of: Callable[[Any], float | None], model: LayerEstimate) -> str:
    dense, sparse = of(model.dense), of(model.sparse)
    return "" if not dense or sparse is None else f"{sparse / dense:.3f}"


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
