"""`python -m bench run`: every contender in the same interleaved run, rows as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.machine import describe
from sparse_ext.timing import Timing, interleaved, keep_memory

from .bounds import bound_s
from .cases import Case
from .contenders import CONTENDERS, Operands

# Multiply-adds of a product, in units of tokens x entries.
WORK = {"forward": 1, "input gradient": 1, "weight gradient": 1, "step": 3}


def measure(case: Case, products: Iterable[str], contenders: Iterable[str], budget_s: float) -> Iterator[dict[str, Any]]:
    """One row for each product and contender."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True  # as cuBLAS; and cuDNN at its best
    operands = Operands(case)
    functions = {name: CONTENDERS[name](operands) for name in contenders}
    for product in products:
        turns = {name: products[product] for name, products in functions.items() if product in products}
        timings = interleaved(turns, device=case.device, budget_s=budget_s)
        for name, timing in timings.items():
            yield {"case": product, **case.row, "contender": name, **_figures(case, product, name, timing, timings["dense"])}


def _figures(case: Case, product: str, name: str, timing: Timing, dense: Timing) -> dict[str, Any]:
    """What follows from a timing; None where something is not known."""
    figures: dict[str, Any] = {**timing.row, "speedup": dense.median_s / timing.median_s}
    if product not in WORK:
        return figures
    positions = case.shape.in_features * case.shape.out_features
    flops = 2 * WORK[product] * case.shape.tokens * positions
    share = 1.0 if name in ("dense", "tf32") else 1 - case.sparsity
    bound = bound_s(case, product) if name in ("sparse_ext", "sm_90a", "auto") and case.device == "cuda" else None
    return {
        **figures,
        "useful_tflops": share * flops / timing.median_s / 1e12,
        "dense_equivalent_tflops": flops / timing.median_s / 1e12,
        "share_of_bound": None if bound is None else bound / timing.median_s,
    }


def overhead(device: str) -> Iterator[dict[str, Any]]:
    """Eager overhead: a 1 x 8 layer, forward without grad."""
    x = torch.randn(1, 8, device=device)
    layers = {"dense": nn.Linear(8, 8, device=device), "sparse_ext": sx.SparseLinear(8, 8, sparsity=0.5, device=device)}
    with torch.no_grad():
        functions = {name: (lambda layer=layer: layer(x)) for name, layer in layers.items()}
        timings = interleaved(functions, device=device, budget_s=2.0, turn_s=0.005)
    for name, timing in timings.items():
        yield {
            "case": "overhead", "in_features": 8, "out_features": 8, "tokens": 1, "sparsity": 0.5, "pattern": "uniform",
            "dtype": "float32", "device": device, "contender": name, **timing.row,
            "speedup": timings["dense"].median_s / timing.median_s,
        }  # fmt: skip


def run(cases: list[Case], products: list[str], contenders: list[str], threads: list[int], out: Path, budget_s: float) -> None:
    """Measures the cases and appends their rows to `out`."""
    keep_memory()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        for count in threads:
            torch.set_num_threads(count)
            origin = describe(cases[0].device)
            for rows in [*(measure(case, products, contenders, budget_s) for case in cases), overhead(cases[0].device)]:
                for row in rows:
                    file.write(json.dumps({**row, **origin}) + "\n")
                    file.flush()
                    print(_line(row, count), flush=True)


def _line(row: dict[str, Any], threads: int) -> str:
    layer = f"{row['in_features']:>5} -> {row['out_features']:<5} {row['tokens']:>5} tokens"
    if "kernel" in row:
        layer += f" {row['kernel']} x {row['kernel']} / {row['stride']}"
    kind = f"{row['sparsity']:.0%} {row['pattern']:<7} {row['dtype']:<8} {threads} threads"
    figures = f"{row['median_s'] * 1e3:>9.4f} ms  {row['speedup']:>6.2f}x"
    return f"{row['case']:<15} {layer}  {kind}  {row['contender']:<12} {figures}"
