"""What a Sparsifier has done so far, as data and as a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparse_ext.ops import Pattern


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        nnz, capacity: entries in use, and room for them. density: nnz over positions.
        replaced: connections replaced since the start, as a share of nnz (each replacement counts: may exceed 1).
        replaced_last: the same for the last update alone.
        coverage: share of all positions that were ever active, R_s (Liu et al. 2021, "In-Time Over-Parameterization").
    """

    name: str
    shape: tuple[int, int]
    nnz: int
    capacity: int
    density: float
    replaced: float
    replaced_last: float
    coverage: float


@dataclass(frozen=True)
class Report:
    """All layers, the number of steps and of topology updates; `str()` is a table."""

    step: int
    updates: int
    layers: tuple[LayerReport, ...]

    @property
    def density(self) -> float:
        """nnz over positions, all layers together."""
        positions = sum(rows * cols for rows, cols in (layer.shape for layer in self.layers))
        return sum(layer.nnz for layer in self.layers) / max(1, positions)

    @property
    def coverage(self) -> float:
        """R_s over all layers together."""
        positions = [rows * cols for rows, cols in (layer.shape for layer in self.layers)]
        covered = sum(n * layer.coverage for n, layer in zip(positions, self.layers, strict=True))
        return covered / max(1, sum(positions))

    def __str__(self) -> str:
        width = max([len("layer"), *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':<{width}}  {'shape':>13}  {'nnz':>9}  density  replaced  last update  coverage"]
        for layer in self.layers:
            shape = f"{layer.shape[0]} x {layer.shape[1]}"
            lines.append(
                f"{layer.name:<{width}}  {shape:>13}  {layer.nnz:>9}  {layer.density:>7.2%}  {layer.replaced:>8.2f}"
                f"  {layer.replaced_last:>11.2%}  {layer.coverage:>8.2%}"
            )
        total = f"step {self.step}, {self.updates} updates, density {self.density:.2%}, coverage {self.coverage:.2%}"
        return "\n".join([*lines, total])


class Coverage:
    """One bit per position of a layer: was it ever active?"""

    def __init__(self, pattern: Pattern) -> None:
        self.positions = pattern.rows * pattern.cols
        self.bits = np.zeros((self.positions + 7) // 8, dtype=np.uint8)
        self.add(pattern)

    def add(self, pattern: Pattern) -> None:
        """Marks the pattern's positions."""
        index = pattern.linear_index().cpu().numpy()
        np.bitwise_or.at(self.bits, index >> 3, (1 << (index & 7)).astype(np.uint8))

    def share(self) -> float:
        """Marked positions over all."""
        return int(np.unpackbits(self.bits).sum()) / max(1, self.positions)
