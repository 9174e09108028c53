"""`Policy`: which product and which storage is faster, dense or sparse, by measured crossovers.

A table holds rows {device, dtype, product, threads, tokens, positions, density}: with that many tokens and matrix elements
(positions), the dense way is faster above that density. A product named "storage" compares a whole training step. A layout
with a fixed density has rows of density 0 (dense is faster) or 1 (sparse is). Rows without threads count for any number.

crossover.json ships with the package. `python -m sparse_ext calibrate` measures a machine and writes a table of its user's,
whose rows take the place of those of the same device, dtype and product.

A row may also have `ratios`: [[density, time of the sparse kernel over that of torch's dense product], ...]. Nothing is chosen
by them; `estimate` predicts a model's speed from them.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .boundary.launch import BACKENDS

SHIPPED = Path(__file__).with_name("crossover.json")
OWN = "SPARSE_EXT_CROSSOVER"  # the environment variable that names the user's table
# Every CPU in a table, in order: where one has no rows, those of the nearest serve.
CPUS = ("cpu baseline", "cpu v3", "cpu v4", "cpu v4_bf16", "cpu v4_bf16 amx")
PRODUCTS = ("matmul", "matmul_t", "grad_weight")  # of a step, as tables call them
STORAGE = "storage"

Key = tuple[str, torch.dtype, str]  # device, dtype, product


class Row(NamedTuple):
    """One crossover: the dense way is faster above this density. threads 0: any number. ratios: pairs (density, ratio)."""

    tokens: int
    positions: int
    threads: int
    density: float
    ratios: tuple[tuple[float, float], ...] = ()


Table = dict[Key, tuple[Row, ...]]


class Choice(NamedTuple):
    """What was chosen, and why, in words."""

    chosen: str
    reason: str


def own_table() -> Path:
    """Where the user's table is, or will be: $SPARSE_EXT_CROSSOVER, or in the folder of the user's settings."""
    # A process may have no home, for which Path.home() would raise, and importing must not fail.
    settings = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", os.devnull)) / ".config"
    return Path(os.environ.get(OWN) or Path(settings) / "sparse_ext" / "crossover.json")


def read(rows: Iterable[dict[str, Any]]) -> Table:
    """A table from its rows; KeyError, TypeError, ValueError or AttributeError if they are none."""
    table: dict[Key, list[Row]] = {}
    for row in rows:
        dtype = getattr(torch, row["dtype"])
        ratios = tuple((float(density), float(ratio)) for density, ratio in row.get("ratios", ()))
        sizes = int(row["tokens"]), int(row["positions"]), int(row.get("threads", 0))
        crossover = Row(*sizes, float(row["density"]), ratios)
        if min(crossover[:2]) < 1 or not 0 <= crossover.density <= 1 or not isinstance(dtype, torch.dtype):
            raise ValueError(f"expected sizes above 0, a density in [0, 1] and a dtype, got {row}")
        table.setdefault((row["device"], dtype, row["product"]), []).append(crossover)
    return {key: tuple(found) for key, found in table.items()}


def load(path: Path, variable: str | None = None) -> Table:
    """The table in a file, empty if there is none; warns and leaves out one that is corrupt.

    variable: the environment variable that names the file; then it warns, too, if there is none.
    """
    try:
        if variable is None and not path.exists():
            return {}
        return read(json.loads(path.read_text()))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        where = path if variable is None else f"environment variable {variable}={path}"
        warnings.warn(f"{where}: expected a table as `python -m sparse_ext calibrate` writes it, got {error!r}", stacklevel=2)
        return {}


def _cpu_name() -> str:
    """This CPU in a table: its instruction set, and whether dense bfloat16 products run on AMX."""
    return f"cpu {BACKENDS['cpu'].module.isa()}{' amx' if torch.cpu._is_amx_tile_supported() else ''}"


_CPU = _cpu_name()


def device_name(device: torch.device) -> str:
    """A device in a table: its CPU's name, or the GPU's architecture."""
    if device.type != "cuda":
        return _CPU
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda {major}.{minor}"


def _by_distance(device: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The devices that a table knows and that can stand for this one, the nearest first."""

    def rank(name: str) -> float:
        return CPUS.index(name) if name in CPUS else float(re.sub(r"[^\d.]", "", name) or 0)

    kind = device.split()[0]
    return tuple(sorted((name for name in known if name.split()[0] == kind), key=lambda name: abs(rank(name) - rank(device))))


def _apart(one: int, other: int) -> float:
    return max(one / other, other / one) if one and other else 1.0


def nearest(rows: tuple[Row, ...], tokens: int, positions: int, threads: int) -> list[Row]:
    """The rows of the nearest size, compared by ratios; tokens 0: any number of them."""

    def distance(row: Row) -> float:
        return _apart(row.tokens, tokens) * _apart(row.positions, positions) * _apart(row.threads, threads)

    least = min(map(distance, rows))
    return [row for row in rows if distance(row) == least]


@lru_cache(maxsize=4096)  # sizes repeat; the search takes as long as a small product
def _crossing(rows: tuple[Row, ...], tokens: int, positions: int, threads: int) -> float:
    """The density of the row of the nearest size; tokens 0: the lowest for any number of them."""
    return min(row.density for row in nearest(rows, tokens, positions, threads))


class Policy:
    """Chooses by the crossovers of a table.

    Attributes:
        table: {(device, dtype, product): rows}.
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def table(self) -> Table:
        return self._table

    @table.setter
    def table(self, table: Table) -> None:
        self._table = table
        self._serving: dict[Key, tuple[str, tuple[Row, ...]]] = {}  # what `rows` has found

    def rows(self, device: str, dtype: torch.dtype, product: str) -> tuple[str, tuple[Row, ...]]:
        """(device, rows) that serve there: its own, those of the nearest device, those of float32, or none."""
        key = device, dtype, product
        if key not in self._serving:
            self._serving[key] = self._find(*key)
        return self._serving[key]

    def _find(self, device: str, dtype: torch.dtype, product: str) -> tuple[str, tuple[Row, ...]]:
        known = tuple(dict.fromkeys(name for name, *_ in self.table))
        for kind in (dtype, torch.float32):
            for name in _by_distance(device, known):
                if found := self.table.get((name, kind, product)):
                    return name, found
        return device, ()

    def is_dense(self, product: str, x: torch.Tensor, rows: int, cols: int, entries: int, tokens: int | None = None) -> bool:
        """Whether x [tokens, ...] times a [rows, cols] matrix with so many entries should be done densely.

        tokens: where they are not what x is made of, as the pixels of a convolution.
        """
        _, found = self.rows(device_name(x.device), x.dtype, product)
        if not found:
            return False
        tokens, positions = max(1, x.shape[0] if tokens is None else tokens), max(1, rows * cols)
        return entries > _crossing(found, tokens, positions, torch.get_num_threads()) * positions

    def storage(
        self,
        sparse: str,
        dense: str,
        positions: int,
        nnz: int,
        dtype: torch.dtype,
        device: torch.device,
        products: tuple[str, ...] = (STORAGE,),
    ) -> Choice:
        """Which of two layouts should store nnz of so many positions: the one that no number of tokens makes slower.

        products: of the table. Only where all of them are faster densely is the answer `dense`.
        """
        name = device_name(device)
        serving = [self.rows(name, dtype, product) for product in products]
        if not all(found for _, found in serving):
            return Choice(sparse, f"nothing was measured on {name}: `python -m sparse_ext calibrate` does")
        measured, threads = serving[0][0], torch.get_num_threads()
        crossing = max(_crossing(found, 0, max(1, positions), threads) for _, found in serving)
        where = measured if measured == name else f"{measured}, the nearest to {name}"
        zeros, from_zeros = 1 - nnz / max(1, positions), 1 - crossing
        reason = f"{zeros:.0%} zeros; sparse storage is faster from {from_zeros:.0%} on, as measured on {where}"
        return Choice(dense if nnz > crossing * positions else sparse, reason)


POLICY = Policy(load(SHIPPED) | load(own_table(), OWN if os.environ.get(OWN) else None))
