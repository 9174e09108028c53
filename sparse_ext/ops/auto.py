"""Where a dense product is faster than a sparse one: measured crossovers, as data.

crossover.json holds rows {device, dtype, product, tokens, positions, density}. With that many tokens and matrix elements
(positions), the dense product, unpacking included, is faster above that density. The row of the nearest size is used, compared
by ratios. A layout with a fixed density has rows of density 0 (dense is faster) or 1 (sparse is). A device or dtype without
rows is multiplied sparsely.

`python -m bench crossover` measures a machine and writes its rows. SPARSE_EXT_CROSSOVER names another file to read.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import torch

from .boundary.launch import BACKENDS

PRODUCTS = ("matmul", "matmul_t", "grad_weight")
Row = tuple[int, int, float]  # tokens, positions, density


def load(path: Path) -> dict[tuple[str, torch.dtype, str], tuple[Row, ...]]:
    """{(device, dtype, product): rows}."""
    table: dict[tuple[str, torch.dtype, str], list[Row]] = {}
    for row in json.loads(path.read_text()):
        key = (row["device"], getattr(torch, row["dtype"]), row["product"])
        table.setdefault(key, []).append((row["tokens"], row["positions"], row["density"]))
    return {key: tuple(rows) for key, rows in table.items()}


def cpu_name() -> str:
    """This CPU in the table: its instruction set, and whether dense bfloat16 products run on AMX."""
    return f"cpu {BACKENDS['cpu'].module.isa()}{' amx' if torch.cpu._is_amx_tile_supported() else ''}"


TABLE = load(Path(os.environ.get("SPARSE_EXT_CROSSOVER") or Path(__file__).with_name("crossover.json")))
_CPU = cpu_name()


def device_name(device: torch.device) -> str:
    """A device in the table: `cpu_name`, or the GPU architecture."""
    if device.type != "cuda":
        return _CPU
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda {major}.{minor}"


@lru_cache(maxsize=4096)  # sizes repeat; the search takes as long as a small product
def nearest_crossing(rows: tuple[Row, ...], tokens: int, positions: int) -> float:
    """The density of the row of the nearest size."""
    return min(rows, key=lambda row: max(row[0] / tokens, tokens / row[0]) * max(row[1] / positions, positions / row[1]))[2]


def dense_is_faster(product: str, x: torch.Tensor, rows: int, cols: int, entries: int) -> bool:
    """Whether x [tokens, ...] times a [rows, cols] matrix with so many entries should be done densely."""
    crossovers = TABLE.get((device_name(x.device), x.dtype, product))
    if not crossovers:
        return False
    tokens, positions = max(1, x.shape[0]), max(1, rows * cols)
    return entries > nearest_crossing(crossovers, tokens, positions) * positions
