"""Puts an `Estimate` together, of the dense and the sparse model on the device "meta"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sparse_ext.methods import Method, Time
from sparse_ext.train.flops.planned import Planned, planned
from sparse_ext.train.flops.rows import rows_of, step_flops
from sparse_ext.train.flops.table import LayerFlops
from sparse_ext.train.flops.tokens import Tokens, layers_of
from sparse_ext.train.flops.work import Work

from .memory import REST, bytes_by_layer, bytes_of_method, dense_gradient
from .optimizer import called, made_on_meta, state_of
from .outline import Group, groups_of
from .result import Bytes, Communication, Cost, Estimate, LayerEstimate, Speed, StepFlops, together
from .seconds import DENSE, Measured
from .verdict import conclusion, judged

NO_BYTES, NO_FLOPS = Bytes(0, 0, 0, 0, 0), StepFlops(0, 0, 0)


@dataclass(frozen=True)
class Run:
    """What is asked for, checked. device: as the table of measurements names it."""

    method: Method | Mapping[str, Method]
    optimizer: Any
    ranks: int
    total_steps: int
    device: str

    @property
    def ring(self) -> float:
        """What each rank sends of every byte that all ranks sum up."""
        return 2 * (self.ranks - 1) / self.ranks


def estimated(run: Run, dense: nn.Module, sparse: nn.Module, counted: Tokens) -> Estimate:
    """The estimate of a run, from both models; counted: the tokens of the dense one's layers."""
    groups = groups_of(sparse, run.method, made_on_meta(run.optimizer, _trained(sparse)))
    plans = planned(groups, run.total_steps)
    flops = rows_of(Tokens(layers_of(sparse), counted.counts, counted.other), plans, run.total_steps)
    names = [row.name for row in flops if row.name in counted.layers]
    (state, unknown), (sparse_state, _) = (state_of(run.optimizer, _trained(model)) for model in (dense, sparse))
    held = bytes_by_layer(dense, names, state), bytes_by_layer(sparse, names, sparse_state)
    measured = Measured(run.device)
    make = _Rows(run, layers_of(sparse), groups, plans, measured)
    rows = [make.layer(row, *(one.get(row.name, NO_BYTES) for one in held)) for row in flops]
    if held[0][REST].weights:
        rows.append(make.rest(held[0][REST], held[1][REST]))
    rows = [replace(row, dense_is_better=judged(row)) for row in rows]
    model = together("whole model", rows)
    return Estimate(
        layers=tuple(rows),
        model=model,
        method=", ".join(dict.fromkeys(type(one).__name__ for one, _ in groups)) or "none",
        optimizer=called(run.optimizer),
        ranks=run.ranks,
        total_steps=run.total_steps,
        device=run.device,
        notes=(
            *([f"optimizer state is unknown: {unknown}"] if unknown else []),
            *_notes_on_ranks(run),
            *_notes_on_speed(rows, measured),
        ),
        conclusion=conclusion(model),
    )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that need gradients; ValueError if there are none."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    if not parameters:
        raise ValueError("estimate: expected a model with parameters to train, got one without any")
    return parameters


class _Rows:
    """Makes the rows of layers."""

    def __init__(
        self, run: Run, layers: dict[str, Any], groups: list[Group], plans: dict[str, Planned], measured: Measured
    ) -> None:
        self.run, self.layers, self.plans, self.measured = run, layers, plans, measured
        self.methods: dict[str, list[Method]] = {}
        for method, group in groups:
            for one in group:
                self.methods.setdefault(one.name, []).append(method)
        total = run.total_steps
        steps = range(1, total + 1)
        self.updates = {method: sum(method.is_update(Time(step, total)) for step in steps) for method, _ in groups}

    def layer(self, flops: LayerFlops, dense: Bytes, sparse: Bytes) -> LayerEstimate:
        """The row of a layer, or of other products."""
        layer, plan, methods = self.layers.get(flops.name), self.plans.get(flops.name), self.methods.get(flops.name, [])
        if methods:
            sparse = replace(sparse, method=bytes_of_method(layer, methods, self.run.ranks))
        of_dense = StepFlops(flops.dense_forward, flops.dense_training, flops.dense_training)
        of_sparse = StepFlops(flops.forward.planned, flops.training.planned, _observing(flops, layer, plan))
        return LayerEstimate(
            name=flops.name,
            shape=_shape(layer),
            layout=layer.layout if layer is not None and flops.sparse else None,
            density=flops.density.planned,
            tokens=flops.tokens,
            dense=Cost(dense, self._sent(dense, 0), of_dense),
            sparse=Cost(sparse, self._sent(sparse, self._observed(layer, methods, plan)), of_sparse),
            speed=self._speed(flops, layer, plan),
        )

    def rest(self, dense: Bytes, sparse: Bytes) -> LayerEstimate:
        """The row of all parameters that are no layer's."""
        one, other = (Cost(held, self._sent(held, 0), NO_FLOPS) for held in (dense, sparse))
        return LayerEstimate(REST, None, None, 1.0, None, one, other, DENSE)

    def _sent(self, held: Bytes, observed: float) -> Communication:
        return Communication(self.run.ring * held.gradients, self.run.ring * observed)

    def _observed(self, layer: Any, methods: list[Method], plan: Planned | None) -> float:
        """Bytes of all dense gradients that are summed for one update."""
        if plan is None or not plan.observed:
            return 0.0
        found = [(method, dense_gradient(layer, method, self.run.ranks)) for method in methods]
        return sum(one.nbytes * plan.observed / max(1, self.updates[method]) for method, one in found if one is not None)

    def _speed(self, flops: LayerFlops, layer: Any, plan: Planned | None) -> Speed:
        if plan is None and not flops.sparse:
            return DENSE
        if not flops.sparse:
            return Speed(None, None, None, None, "nothing was measured of dense layers that train in part")
        work = Work(layer.product, layer.layout, None, layer.nnz) if plan is None else plan.begin
        return self.measured.speed(work, flops.density.planned, flops.tokens or 0, layer.weight.dtype)


def _shape(layer: Any) -> tuple[int, ...] | None:
    """Of a layer's dense weight; None: there is no layer."""
    if layer is None:
        return None
    return tuple(layer.product.weight_shape if hasattr(layer, "product") else layer.weight.shape)


def _observing(flops: LayerFlops, layer: Any, plan: Planned | None) -> float:
    """FLOPs of a training step that observes the dense gradient, if there are such ones; otherwise of any."""
    if plan is None or not plan.observed:
        return flops.training.planned
    entries = plan.begin.entries._replace(grad_weight=plan.begin.positions)
    return step_flops(flops.tokens or 0, entries, layer.weight.requires_grad)


def _notes_on_ranks(run: Run) -> list[str]:
    """What several ranks hold that is in no row."""
    if run.ranks == 1:
        return []
    return ["buckets of DDP are not counted: as many bytes as gradients once more, unless gradient_as_bucket_view=True"]


def _notes_on_speed(rows: list[LayerEstimate], measured: Measured) -> list[str]:
    """Where the predicted speed comes from, or why there is none."""
    source = measured.source()
    if source is None:
        return [
            f"speed is unknown: the table of measurements has no ratios of a {measured.device}; "
            f"`python -m sparse_ext calibrate` measures this machine"
        ]
    where = source if source == measured.device else f"{source}, the nearest to {measured.device}"
    notes = [f"speed is that of products alone, as measured on {where}, at the nearest measured size"]
    why = dict.fromkeys(row.speed.why for row in rows if row.speed.why is not None)
    return notes + [f"speed is unknown in part: {one}" for one in why]
