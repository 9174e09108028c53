"""What a training executes: FLOPs, counted once for each state of its layers and shape of a batch; and its density."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from sparse_ext.methods import Method, Time
from sparse_ext.nn import layer_densities, sparse_layers
from sparse_ext.report.run import DensityPoint
from sparse_ext.train import Sparsifier, count_flops

from .quiet import quiet
from .task import tensors_of

if TYPE_CHECKING:
    from sparse_ext.train.report import Report

    from .task import Batch
    from .training import Training


class Kind(NamedTuple):
    """What a method does in a step.

    Attributes:
        observes: a signal observes the dense gradient.
        updates: a pattern, or what is frozen, may change at its end.
    """

    observes: bool
    updates: bool


def kinds_of(method: Method | None, steps: int) -> list[Kind]:
    """Of each step of a run, the first one at index 0."""
    if method is None:
        return [Kind(False, False)] * steps
    times = [Time(step, steps) for step in range(1, steps + 1)]
    parts = method.parts
    return [Kind(any(part.observes(time) for part in parts), any(part.is_update(time) for part in parts)) for time in times]


def positions_of(dense: nn.Module, exclude: Sequence[str]) -> dict[str, int]:
    """{layer: positions} of those that `sparsify_` may replace."""
    with quiet():
        names = layer_densities(dense, 0.0, exclude=exclude)
    return {name: sum(p.numel() for p in dense.get_submodule(name).parameters() if p.dim() > 1) for name in names}


class Work:
    """The FLOPs of a training, and its density.

    Counting is done on a copy of model and Sparsifier, so that the training does not notice.

    Attributes:
        flops: of all steps so far. density_sum: of the densities of all steps.
        density: how it changed.
    """

    def __init__(self, training: Training, positions: dict[str, int]) -> None:
        self.flops = self.density_sum = 0.0
        self.density: list[DensityPoint] = []
        self._training, self._positions = training, positions
        method = training.contender.trained_by
        self._parts = () if method is None else method.parts
        self._reads_device = any(part.changes_density or part.freezes for part in self._parts)
        self._kinds = kinds_of(method, training.size.steps)
        self._layers = sparse_layers(training.model)
        self._known: dict[Any, float] = {}
        self._updates = -1
        self._state: Any = None
        self._nnz: tuple[int, ...] = ()
        self._now = 1.0

    def kind(self, step: int) -> Kind:
        """Of the step with this index."""
        return self._kinds[step]

    def knows(self, step: int, batch: Batch) -> bool:
        """Whether `add` would only look up what this step costs with such a batch."""
        if not self._is_current() and not self._reads_device:
            self._look(step)
        return self._is_current() and self._key(step, batch) in self._known

    def add(self, step: int, batch: Batch) -> None:
        """The step with this index is about to be done with this batch."""
        if not self._is_current():
            self._look(step)
        key = self._key(step, batch)
        if key not in self._known:
            self._known[key] = self._count(batch)
        self.flops += self._known[key]
        self.density_sum += self._now

    def _is_current(self) -> bool:
        sparsifier = self._training.sparsifier
        return self._updates == (0 if sparsifier is None else sparsifier._updates)

    def _key(self, step: int, batch: Batch) -> tuple[Any, ...]:
        """What decides how many FLOPs a step executes: batches may differ in size, and sequences in length."""
        kind, shapes = self._kinds[step], tuple(one.shape for one in tensors_of(batch))
        return self._state, kind.observes, kind.updates and any(part.freezes for part in self._parts), shapes

    def _look(self, step: int) -> None:
        """Notes what the layers are now. Synchronises with the device where a method changes how much is in use."""
        sparsifier = self._training.sparsifier
        self._updates = 0 if sparsifier is None else sparsifier._updates
        form = tuple((layer.layout, layer.chosen_by) for layer in self._layers.values())
        if self._state is None or self._reads_device:
            self._nnz = tuple(layer.nnz for layer in self._layers.values())
        state = (form, self._nnz, _shares(sparsifier, self._parts))
        if state == self._state:
            return
        self._state = state
        self._now = self._density()
        if not self.density or self.density[-1].density != self._now:
            self.density.append(DensityPoint(step, self._now))

    def _density(self) -> float:
        """Of all layers that could be sparse."""
        if not self._positions:
            return 1.0
        kept = sum(self._layers[name].nnz if name in self._layers else size for name, size in self._positions.items())
        return kept / sum(self._positions.values())

    def coverage(self, report: Report) -> float:
        """Share of the positions of all layers that could be sparse that were ever in use; layers left dense use all."""
        shares = {row.name: row.coverage for row in report.layers}
        used = sum(shares.get(name, 1.0) * size for name, size in self._positions.items())
        return used / max(1, sum(self._positions.values()))

    def _count(self, batch: Batch) -> float:
        training = self._training
        with training.random.unchanged(), quiet():
            model, _optimizer, _sparsifier = copy.deepcopy((training.model, training.optimizer, training.sparsifier))
            return count_flops(lambda: training.loss_of(model, batch).backward())

    def state_dict(self) -> dict[str, Any]:
        """What was summed so far."""
        return {
            "flops": self.flops,
            "density_sum": self.density_sum,
            "density": [astuple(point) for point in self.density],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.flops, self.density_sum = state["flops"], state["density_sum"]
        self.density = [DensityPoint(*values) for values in state["density"]]


def _shares(sparsifier: Sparsifier | None, parts: Sequence[Method]) -> tuple[float, ...]:
    """Of each layer, what of it trains, where a method freezes some."""
    if sparsifier is None or not any(part.freezes for part in parts):
        return ()
    return tuple(row.trained for row in sparsifier.report().layers)
