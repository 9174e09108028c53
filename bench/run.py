"""`python -m bench run`: forward + backward of one layer, every contender in the same interleaved run, rows as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .cases import CONTENDERS, SPARSITIES, SUITES, Shape
from .machine import describe
from .timing import interleaved


def _full_step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None
        layer(x).backward(dy)

    return step


def _forward(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            layer(x)

    return forward


def _rows(shape: Shape, sparsity: float, dtype: torch.dtype, device: str, budget_s: float) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    dy = torch.randn(shape.tokens, shape.out_features, dtype=dtype, device=device)
    functions = {}
    for name, make in CONTENDERS.items():
        layer = make(shape, sparsity, dtype, device)
        if layer is None:
            continue
        x = torch.randn(shape.tokens, shape.in_features, dtype=dtype, device=device, requires_grad=True)
        functions[name] = _full_step(layer, x, dy)
    timings = interleaved(functions, device=device, budget_s=budget_s)
    for name, timing in timings.items():
        yield {
            "case": "forward+backward",
            **asdict(shape),
            "sparsity": sparsity,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device,
            "contender": name,
            **asdict(timing),
            "speedup": timings["dense"].median_s / timing.median_s,
        }


def _overhead_rows(device: str) -> Iterator[dict[str, Any]]:
    """Eager overhead: a 1 x 8 layer, forward without grad."""
    shape = Shape(8, 8, 1)
    x = torch.randn(1, 8, device=device)
    functions = {name: _forward(CONTENDERS[name](shape, 0.5, torch.float32, device), x) for name in ("dense", "sparse_ext")}
    timings = interleaved(functions, device=device, budget_s=2.0, turn_s=0.005)
    for name, timing in timings.items():
        speedup = timings["dense"].median_s / timing.median_s
        yield {
            "case": "overhead", **asdict(shape), "sparsity": 0.5, "dtype": "float32", "device": device, "contender": name,
            **asdict(timing), "speedup": speedup,
        }  # fmt: skip


def run(suite: str, dtype: torch.dtype, device: str, threads: list[int], out: Path, budget_s: float) -> None:
    """Measures a suite and appends its rows to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        for count in threads:
            torch.set_num_threads(count)
            machine = describe(device)
            cases = [_rows(shape, s, dtype, device, budget_s) for shape in SUITES[suite] for s in SPARSITIES]
            for rows in [*cases, _overhead_rows(device)]:
                for row in rows:
                    file.write(json.dumps({**row, **machine}) + "\n")
                    print(
                        f"{row['case']:<17} {row['in_features']:>5} -> {row['out_features']:<5} {row['tokens']:>5} tokens  "
                        f"{row['sparsity']:.0%}  {count} threads  {row['contender']:<13} {row['median_s'] * 1e3:>9.4f} ms  "
                        f"{row['speedup']:>6.2f}x",
                        flush=True,
                    )
