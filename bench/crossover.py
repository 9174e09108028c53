"""`python -m bench crossover`: measures where the dense product becomes faster, for sparse_ext/ops/crossover.json.

For each product and shape, at several densities: the three products of a step all sparse, against the same with this one
unpacked and multiplied densely, in one interleaved run. In their company, because alone a product finds its operands in a
cache that the others would have filled. Between two densities the ratio of the times is taken to be a power of the density.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from sparse_ext.ops import auto, csr, nm24
from sparse_ext.ops.nm24.auto import FORWARD, GRAD_INPUT

from .cases import Case, Shape
from .contenders import Functions, Operands, products, sparse_ext, transposable
from .timing import interleaved

SHAPES = (
    *(Shape(width, width, tokens) for tokens in (64, 256, 1024) for width in (512, 1024, 2048)),
    Shape(4096, 4096, 256),
    Shape(4096, 4096, 512),
)
DENSITIES = (0.1, 0.2, 0.35, 0.5, 0.75)
NAMES = {"forward": "matmul", "input gradient": "matmul_t", "weight gradient": "grad_weight"}


def _step(functions: Functions, dense: str | None) -> Callable[[], object]:
    """The three products of layout "auto", one of them dense."""

    def run() -> None:
        with mock.patch.object(csr.auto, "dense_is_faster", side_effect=lambda product, *_: product == dense):
            for product in NAMES:
                functions[product]()

    return run


def crossing(densities: list[float], ratios: list[float]) -> float:
    """The density at which sparse over dense time reaches 1: if that is never, 1; if it is from the start, the first."""
    for (d0, r0), (d1, r1) in pairwise(zip(densities, ratios, strict=True)):
        if r0 < 1 <= r1:
            return d0 * (d1 / d0) ** (math.log(1 / r0) / math.log(r1 / r0))
    return 1.0 if ratios[-1] < 1 else densities[0]


def measure(dtype: torch.dtype, device: str, budget_s: float) -> Iterator[dict[str, Any]]:
    """The rows of this machine for a dtype."""
    for shape in SHAPES:
        ratios: dict[str, list[float]] = {product: [] for product in NAMES}
        for density in DENSITIES:
            functions = sparse_ext(Operands(Case(shape, 1 - density, "uniform", dtype, device)), "auto")
            for product, times in ratios.items():
                pair = {"sparse": _step(functions, None), "dense": _step(functions, NAMES[product])}
                timings = interleaved(pair, device=device, budget_s=budget_s)
                times.append(timings["sparse"].median_s / timings["dense"].median_s)
        for product, times in ratios.items():
            yield _row(shape, dtype, device, NAMES[product], crossing(list(DENSITIES), times))


def measure_nm24(dtype: torch.dtype, device: str, budget_s: float) -> Iterator[dict[str, Any]]:
    """The rows of layout "2:4", a dense weight with transposable tiles: which of two ways is faster, sparse or unpacked."""
    for shape in SHAPES:
        operands = Operands(Case(shape, 0.5, "uniform", dtype, device))
        functions = products(operands, transposable(operands))
        for name, product in ((FORWARD, "forward"), (GRAD_INPUT, "input gradient")):
            pair = {"sparse": _either(functions[product], False), "dense": _either(functions[product], True)}
            timings = interleaved(pair, device=device, budget_s=budget_s)
            ratio = timings["sparse"].median_s / timings["dense"].median_s
            yield _row(shape, dtype, device, name, 1.0 if ratio < 1 else 0.0)


def _either(product: Callable[[], object], dense: bool) -> Callable[[], object]:
    def run() -> None:
        with mock.patch.object(nm24.auto, "dense_is_faster", return_value=dense):
            product()

    return run


def _row(shape: Shape, dtype: torch.dtype, device: str, product: str, density: float) -> dict[str, Any]:
    return {
        "device": auto.device_name(torch.device(device)),
        "dtype": str(dtype).removeprefix("torch."),
        "product": product,
        "tokens": shape.tokens,
        "positions": shape.in_features * shape.out_features,
        "density": round(density, 3),
    }


def update(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts rows in the place of those of the same device, dtype and product."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["device"], row["dtype"], row["product"]

    new = {key(row) for row in rows}
    kept = [row for row in (json.loads(path.read_text()) if path.exists() else []) if key(row) not in new]
    lines = ",\n".join("  " + json.dumps(row) for row in [*kept, *rows])
    path.write_text(f"[\n{lines}\n]\n")
