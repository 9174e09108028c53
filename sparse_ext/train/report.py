"""What a Sparsifier has done so far, as data and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sparse_ext.nn import SparseLayer
from sparse_ext.ops import Pattern

from .coverage import Coverage


@dataclass(frozen=True)
class LayerReport:
    """One layer's row of a `Report`.

    Attributes:
        name: the layer's name in the model.
        shape: (rows, cols) of the weight matrix.
        layout, reason: how the weight is stored, and why it is stored so.
        nnz: number of positions in use.
        capacity: length of the layer's weight.
        density: nnz / (rows * cols).
        replaced: connections replaced since the start / nnz. Every replacement counts, so it may exceed 1.
        replaced_last: connections replaced by the last update / nnz.
        coverage: share of all positions that were ever in use: R_s of Liu et al. 2021, "In-Time Over-Parameterization".
        flip_rate: share of the mask's bits that the last update changed, divided by the steps since the one before (Hu et al.
            2024, https://arxiv.org/abs/2404.01847); None before the first update.
        frozen: whether nothing of it may change: its weight needs no gradient, or no optimizer holds it.
        ablated: number of rows without a position: neurons that no input reaches.
    """

    name: str
    shape: tuple[int, int]
    layout: str
    reason: str
    nnz: int
    capacity: int
    density: float
    replaced: float
    replaced_last: float
    coverage: float
    flip_rate: float | None
    frozen: bool = False
    ablated: int = 0


@dataclass(frozen=True)
class Report:
    """What a Sparsifier has done so far. `str()` formats it as a table.

    Attributes:
        step: training steps so far.
        updates: steps so far at which something changed.
        layers: one row for each layer.
    """

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
        lines = [f"{'layer':<{width}}  {'shape':>13}  {'nnz':>9}  density  replaced  last update  coverage  layout"]
        for layer in self.layers:
            shape = f"{layer.shape[0]} x {layer.shape[1]}"
            lines.append(
                f"{layer.name:<{width}}  {shape:>13}  {layer.nnz:>9}  {layer.density:>7.2%}  {layer.replaced:>8.2f}"
                f"  {layer.replaced_last:>11.2%}  {layer.coverage:>8.2%}  {layer.layout} ({layer.reason})"
                + (", frozen" if layer.frozen else "")
            )
        total = f"step {self.step}, {self.updates} updates, density {self.density:.2%}, coverage {self.coverage:.2%}"
        return "\n".join([*lines, total])


class History:
    """The statistics behind a `Report`, by layer name.

    Counts and coverage stay on the layers' devices until they are read. An update synchronises only where few positions were
    ever in use: coverage then lists them.
    """

    def __init__(self, layers: Mapping[str, SparseLayer]) -> None:
        self._coverage = {name: Coverage(layer.pattern, layer.capacity) for name, layer in layers.items()}
        self._replaced: dict[str, int | torch.Tensor] = dict.fromkeys(layers, 0)
        self._last: dict[str, int | torch.Tensor] = dict.fromkeys(layers, 0)
        self._flips: dict[str, int | torch.Tensor] = dict.fromkeys(layers, 0)
        self._updates: tuple[int, int] = (0, 0)  # the steps of the last one but one, and of the last

    def parts(self) -> list[Any]:
        """The objects whose attributes an update changes."""
        return [self, *self._coverage.values()]

    def begin_update(self, step: int) -> None:
        """Starts an update at this step; `add` then records its layers."""
        self._last = dict.fromkeys(self._last, 0)
        self._flips = dict.fromkeys(self._flips, 0)
        self._updates = (self._updates[1], step)

    def add(self, name: str, layer: SparseLayer, new: torch.Tensor, gone: torch.Tensor) -> None:
        """Records that a layer has changed.

        Args:
            new, gone: how many positions were added and removed.
        """
        before = self._replaced[name]
        self._coverage[name].add(layer.pattern)
        self._replaced[name] = new + (before.to(new.device) if isinstance(before, torch.Tensor) else before)
        self._last[name], self._flips[name] = new, new + gone

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "replaced": {name: int(count) for name, count in self._replaced.items()},
            "replaced_last": {name: int(count) for name, count in self._last.items()},
            "flips": {name: int(count) for name, count in self._flips.items()},
            "coverage": {name: coverage.state() for name, coverage in self._coverage.items()},
            "updated_at": list(self._updates),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave, of layers of the same names and shapes."""
        self._replaced, self._last = dict(state_dict["replaced"]), dict(state_dict["replaced_last"])
        self._flips = dict(state_dict["flips"])
        before, last = state_dict["updated_at"]
        self._updates = (before, last)
        for name, coverage in self._coverage.items():
            coverage.load(state_dict["coverage"][name])

    def of(self, name: str, layer: SparseLayer, frozen: bool) -> LayerReport:
        """The layer's row of the report."""
        pattern, nnz = layer.pattern, layer.nnz
        positions = pattern.rows * pattern.cols
        before, last = self._updates
        return LayerReport(
            name=name,
            shape=(pattern.rows, pattern.cols),
            layout=layer.layout,
            reason=layer.layout_reason,
            nnz=nnz,
            capacity=layer.capacity,
            density=layer.density,
            replaced=int(self._replaced[name]) / max(1, nnz),
            replaced_last=int(self._last[name]) / max(1, nnz),
            coverage=self._coverage[name].count() / max(1, positions),
            flip_rate=int(self._flips[name]) / max(1, positions) / (last - before) if last else None,
            frozen=frozen,
            ablated=pattern.rows - _rows_in_use(pattern),
        )


def _rows_in_use(pattern: Pattern) -> int:
    at = pattern.positions()
    in_use = torch.zeros(pattern.rows + 1, dtype=torch.bool, device=at.device)
    in_use[torch.where(at >= 0, at // max(1, pattern.cols), pattern.rows)] = True
    return int(in_use[: pattern.rows].sum())
