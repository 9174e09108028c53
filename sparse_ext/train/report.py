"""What a Sparsifier has done so far, as data and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.methods import Action, Choose, Freeze
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import Pattern

from .coverage import Coverage
from .flops.work import Executed, after, as_now, in_part, plus, work_of

if TYPE_CHECKING:
    from .managed import ManagedLayer


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
        average_density: mean of the density over the training steps so far; before the first one, the density. After a resume
            from a state of an earlier version, over the steps since then.
        replaced: connections replaced since the start / nnz. Every replacement counts, so it may exceed 1.
        replaced_last: connections replaced by the last update / nnz.
        coverage: share of all positions that were ever in use: R_s of Liu et al. 2021, "In-Time Over-Parameterization".
        flip_rate: share of the mask's bits that the last update changed, divided by the steps since the one before (Hu et al.
            2024, https://arxiv.org/abs/2404.01847); None before the first update.
        frozen: whether nothing of it may change: its weight needs no gradient, or no optimizer holds it.
        ablated: number of rows without a position: neurons that no input reaches.
        trained: the share of its weights that train; a method has frozen the rest.
    """

    name: str
    shape: tuple[int, int]
    layout: str
    reason: str
    nnz: int
    capacity: int
    density: float
    average_density: float
    replaced: float
    replaced_last: float
    coverage: float
    flip_rate: float | None
    frozen: bool = False
    ablated: int = 0
    trained: float = 1.0


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
    def average_density(self) -> float:
        """Mean of the density over the training steps so far, all layers together: in it, runs of different methods compare."""
        return self._mean([layer.average_density for layer in self.layers])

    @property
    def coverage(self) -> float:
        """R_s over all layers together."""
        return self._mean([layer.coverage for layer in self.layers])

    def _mean(self, values: list[float]) -> float:
        """Weighted by the layers' positions."""
        positions = [rows * cols for rows, cols in (layer.shape for layer in self.layers)]
        return sum(n * value for n, value in zip(positions, values, strict=True)) / max(1, sum(positions))

    def __str__(self) -> str:
        width = max([len("layer"), *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':<{width}}  {'shape':>13}  {'nnz':>9}  density  average  replaced  last update  coverage  layout"]
        for layer in self.layers:
            shape = f"{layer.shape[0]} x {layer.shape[1]}"
            lines.append(
                f"{layer.name:<{width}}  {shape:>13}  {layer.nnz:>9}  {layer.density:>7.2%}  {layer.average_density:>7.2%}"
                f"  {layer.replaced:>8.2f}"
                f"  {layer.replaced_last:>11.2%}  {layer.coverage:>8.2%}  {layer.layout} ({layer.reason})"
                + (", frozen" if layer.frozen else "")
                + (f", trains {layer.trained:.2%}" if layer.trained < 1.0 else "")
            )
        densities = f"density {self.density:.2%} (average over the run {self.average_density:.2%})"
        total = f"step {self.step}, {self.updates} updates, {densities}, coverage {self.coverage:.2%}"
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
        self._executed = {name: Executed(work_of(layer)) for name, layer in layers.items()}
        self._uncounted = 0  # steps before a resume of which nothing is known
        self._ended = 0  # the last step that is over; of one whose update failed it is told again
        self._recounts = True  # nnz is read anew at the next step: until then a checkpoint may be loaded

    def end_step(self, step: int, layers: Sequence[ManagedLayer]) -> None:
        """The so manyth step is over: shows the signals its gradients, and notes what it has cost."""
        for managed in layers:
            name = managed.name
            if self._recounts or managed.is_other:
                nnz, managed.is_other = managed.layer.nnz, False
                work = in_part(as_now(replace(self._executed[name].work, nnz=nnz), managed.layer), managed.part)
                self._executed[name] = self._executed[name].changed(step - 1, work)
            if step != self._ended and managed.part.trained is not None and managed.layer._trains is None:
                self._executed[name] = self._executed[name].with_whole_gradient()
            if managed.observation.end():
                self._executed[name] = replace(self._executed[name], observed=self._executed[name].observed + 1)
        self._recounts, self._ended = False, step

    def executed(self, name: str, step: int) -> tuple[Executed, int]:
        """What the layer has cost in the steps up to this one, and how many of these were counted."""
        return self._executed[name].settled(step), step - self._uncounted

    def coverage_of(self, name: str) -> Coverage:
        """Which of the layer's positions were ever in use: the same object throughout, kept up to date."""
        return self._coverage[name]

    def parts(self) -> list[Any]:
        """The objects whose attributes an update changes."""
        return [self, *self._coverage.values()]

    def begin_update(self, step: int) -> None:
        """Starts an update at this step; `add` then records its layers."""
        self._last = dict.fromkeys(self._last, 0)
        self._flips = dict.fromkeys(self._flips, 0)
        self._updates = (self._updates[1], step)

    def add(self, step: int, managed: ManagedLayer, action: Action, new: torch.Tensor, gone: torch.Tensor) -> None:
        """Records that an action has changed a layer at this step.

        Args:
            new, gone: how many positions were added and removed.
        """
        name, layer = managed.name, managed.layer
        now = self._executed[name]
        work = as_now(replace(after(now.work, action), nnz=plus(now.work.nnz, new - gone)), layer)
        if managed.part.trained is not None and not isinstance(action, Choose):
            work = in_part(work, managed.part)
        self._executed[name] = now.changed(step, work)
        if isinstance(action, Freeze):
            return
        before = self._replaced[name]
        self._coverage[name].add(layer.pattern)
        self._replaced[name] = new + (before.to(new.device) if isinstance(before, torch.Tensor) else before)
        self._last[name], self._flips[name] = new, new + gone

    def state_dict(self, step: int) -> dict[str, Any]:
        """Plain values and tensors, after this step."""
        return {
            "replaced": {name: int(count) for name, count in self._replaced.items()},
            "replaced_last": {name: int(count) for name, count in self._last.items()},
            "flips": {name: int(count) for name, count in self._flips.items()},
            "coverage": {name: coverage.state() for name, coverage in self._coverage.items()},
            "updated_at": list(self._updates),
            "executed": {name: one.settled(step).numbers() for name, one in self._executed.items()},
            "uncounted": self._uncounted,
            "shares": {name: [one.work.input_share, one.work.weight_share] for name, one in self._executed.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave, of layers of the same names and shapes."""
        self._replaced, self._last = dict(state_dict["replaced"]), dict(state_dict["replaced_last"])
        self._flips = dict(state_dict["flips"])
        before, last = state_dict["updated_at"]
        self._updates = (before, last)
        for name, coverage in self._coverage.items():
            coverage.load(state_dict["coverage"][name])
        self._uncounted, self._recounts = state_dict["uncounted"], True
        self._ended = 0
        for name, one in self._executed.items():
            shares = state_dict["shares"][name]
            self._executed[name] = one.resumed(state_dict["step"], state_dict["executed"][name], shares)

    def of(self, managed: ManagedLayer, step: int) -> LayerReport:
        """The layer's row of the report after this step."""
        name, layer = managed.name, managed.layer
        pattern, nnz = layer.pattern, layer.nnz
        positions = pattern.rows * pattern.cols
        before, last = self._updates
        executed, counted = self.executed(name, step)
        average = int(executed.sums.forward) / max(1, counted * positions) if counted else layer.density
        return LayerReport(
            name=name,
            shape=(pattern.rows, pattern.cols),
            layout=layer.layout,
            reason=layer.layout_reason,
            nnz=nnz,
            capacity=layer.capacity,
            density=layer.density,
            average_density=average,
            replaced=int(self._replaced[name]) / max(1, nnz),
            replaced_last=int(self._last[name]) / max(1, nnz),
            coverage=self._coverage[name].count() / max(1, positions),
            flip_rate=int(self._flips[name]) / max(1, positions) / (last - before) if last else None,
            frozen=managed.frozen,
            ablated=pattern.rows - _rows_in_use(pattern),
            trained=managed.part.share(),
        )


def _rows_in_use(pattern: Pattern) -> int:
    at = pattern.positions()
    in_use = torch.zeros(pattern.rows + 1, dtype=torch.bool, device=at.device)
    in_use[torch.where(at >= 0, at // max(1, pattern.cols), pattern.rows)] = True
    return int(in_use[: pattern.rows].sum())
