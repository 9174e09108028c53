"""`python -m bench report`: the table of a result file, in Markdown. A number in the README comes from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def table(rows: list[dict[str, Any]]) -> str:
    """Speed-up over the dense layer: one line per shape, thread count and contender, one column per sparsity."""
    rows = [row for row in rows if row["case"] == "forward+backward" and row["contender"] != "dense"]
    sparsities = sorted({row["sparsity"] for row in rows})
    lines = [
        "| layer, tokens | dtype | threads | | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |",
        "|---|---|---|---|" + "---|" * len(sparsities),
    ]
    cells: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in rows:
        layer = f"{row['in_features']} -> {row['out_features']}, {row['tokens']}"
        key = (layer, row["dtype"], row["threads"], row["contender"])
        cells.setdefault(key, {})[row["sparsity"]] = row["speedup"]
    for key, speedups in cells.items():
        values = " | ".join(f"{speedups[s]:.1f}x" if s in speedups else "-" for s in sparsities)
        lines.append("| " + " | ".join(map(str, key)) + f" | {values} |")
    return "\n".join(lines)
