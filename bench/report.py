"""`python -m bench report`: tables in Markdown and plots of a result file. A number in the README comes from here."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from .bounds import COPY_BYTES_S, FLOPS_S, SHARED_BYTES_S, SIZES
from .cases import Convolution

Rows = list[dict[str, Any]]


def load(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _series(rows: Rows, case: str) -> dict[tuple[Any, ...], dict[float, float]]:
    """{(layer, pattern, dtype, threads, contender): {sparsity: speed-up over dense}}; of two measurements the later one."""
    found: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in rows:
        if row["case"] == case and row["contender"] != "dense":
            key = (_layer(row), row["pattern"], row["dtype"], row["threads"], row["contender"])
            found.setdefault(key, {})[row["sparsity"]] = row["speedup"]
    return found


def _layer(row: dict[str, Any]) -> str:
    if "kernel" in row:
        return str(Convolution(**{field.name: row[field.name] for field in fields(Convolution)}))
    return f"{row['in_features']} -> {row['out_features']}, {row['tokens']}"


def break_even(speedups: dict[float, float]) -> float | None:
    """The sparsity at which the speed-up reaches 1, between the measured ones; None if it does not cross it there."""
    points = sorted(speedups.items())
    for (s0, r0), (s1, r1) in pairwise(points):
        if r0 < 1 <= r1:
            share = math.log(1 / r0) / math.log(r1 / r0)
            return 1 - (1 - s0) * ((1 - s1) / (1 - s0)) ** share
    return None


def _break_even_cell(speedups: dict[float, float]) -> str:
    if (sparsity := break_even(speedups)) is not None:
        return f"{sparsity:.0%}"
    lowest, highest = min(speedups), max(speedups)
    return f"< {lowest:.0%}" if speedups[lowest] >= 1 else f"> {highest:.0%}"


def table(rows: Rows, case: str = "step") -> str:
    """Speed-up over the dense layer: one line per layer, pattern, threads and contender, one column per sparsity."""
    series = _series(rows, case)
    sparsities = sorted({sparsity for speedups in series.values() for sparsity in speedups})
    lines = [
        "| layer, tokens | pattern | dtype | threads | | " + " | ".join(f"{s:.0%}" for s in sparsities) + " | break-even |",
        "|---|---|---|---|---|" + "---|" * (len(sparsities) + 1),
    ]
    for key, speedups in series.items():
        cells = [f"{speedups[s]:.1f}x" if s in speedups else "-" for s in sparsities]
        lines.append("| " + " | ".join([*map(str, key), *cells, _break_even_cell(speedups)]) + " |")
    return "\n".join(lines)


def plot_speedups(rows: Rows, case: str, out: Path) -> Path:
    """Speed-up over sparsity, a panel for each layer, dtype and thread count; the line at 1 is where dense wins below."""
    from matplotlib.figure import Figure

    panels: dict[tuple[Any, ...], dict[str, dict[float, float]]] = {}
    for (layer, pattern, dtype, threads, contender), speedups in _series(rows, case).items():
        name = contender if pattern == "uniform" else f"{contender}, {pattern}"
        panels.setdefault((layer, dtype, threads), {})[name] = speedups
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 4 * lines), layout="constrained")
    for index, ((layer, dtype, threads), contenders) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, index)
        for name, speedups in contenders.items():
            sparsities, values = zip(*sorted(speedups.items()), strict=True)
            densities = [1 - s for s in sparsities]
            axes.plot(densities, values, marker=".", label=f"{name} (even at {_break_even_cell(speedups)})")
        axes.axhline(1, color="black", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="zeros", ylabel="times as fast as dense")
        axes.invert_xaxis()
        shown = sorted({sparsity for speedups in contenders.values() for sparsity in speedups})
        axes.set_xticks([1 - s for s in shown], labels=[f"{s:.0%}" for s in shown])
        low, high = axes.get_ylim()
        powers = [2.0**n for n in range(-6, 8) if low <= 2.0**n <= high]
        axes.set_yticks(powers, labels=[f"{power:g}x" for power in powers])
        axes.minorticks_off()
        axes.set_title(f"{layer} tokens, {dtype}, {threads} threads", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    path = out / f"{case.replace(' ', '-')}.png"
    figure.savefig(path, dpi=75)
    return path


def plot_roofline(rows: Rows, out: Path) -> Path | None:
    """Useful TFLOP/s of our products over their arithmetic intensity, under an H200's roofs; None without GPU rows."""
    from matplotlib.figure import Figure

    ours = [row for row in rows if row["device"] == "cuda" and row["contender"] == "sparse_ext" and row.get("useful_tflops")]
    if not ours:
        return None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for dtype in sorted({row["dtype"] for row in ours}):
        points = [(_intensity(row), row["useful_tflops"]) for row in ours if row["dtype"] == dtype]
        axes.scatter(*zip(*points, strict=True), s=12, label=dtype)
        roof = 2 * SHARED_BYTES_S / SIZES[dtype] / 1e12
        axes.axhline(roof, linestyle=":", linewidth=1, color="gray")
        axes.annotate(f"shared memory, {dtype}", (1, roof), fontsize=7)
    intensities = [1.0, FLOPS_S / COPY_BYTES_S, 1e4]
    axes.plot(intensities, [min(i * COPY_BYTES_S, FLOPS_S) / 1e12 for i in intensities], color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="useful FLOPs per byte of device memory", ylabel="useful TFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend()
    path = out / "roofline.png"
    figure.savefig(path, dpi=75)
    return path


def _intensity(row: dict[str, Any]) -> float:
    size, tokens, cols, rows = SIZES[row["dtype"]], row["tokens"], row["in_features"], row["out_features"]
    entries = (1 - row["sparsity"]) * rows * cols
    return 2 * entries * tokens / (entries * (size + 2) + size * tokens * (rows + cols))
