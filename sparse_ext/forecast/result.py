"""`Estimate`: what training will cost, layer by layer, dense beside sparse, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any


@dataclass(frozen=True)
class Bytes:
    """What stays in memory from step to step, in bytes of one rank. Activations come on top.

    Attributes:
        weights: parameters, biases included.
        indices: where non-zeros are: patterns, and what kernels read of them.
        gradients: of all parameters that train.
        optimizer_state: None where a note says why it is unknown.
        method: what the method needs beside the weights, at its peak: dense gradients of a step that observes, with
            what signals keep of them; scores of importance; one bit for each position that was ever in use.
    """

    weights: int
    indices: int
    gradients: int
    optimizer_state: int | None
    method: int

    @property
    def total(self) -> int | None:
        """All of these; None: a part is unknown."""
        return _sum([getattr(self, one.name) for one in fields(self)])


@dataclass(frozen=True)
class Communication:
    """Bytes that each rank sends, if all-reduces go around a ring; 0 for one rank.

    Attributes:
        step: the gradients, in every step.
        update: the dense gradients of the steps that are observed for one update of the pattern; in a dense run nothing.
    """

    step: float
    update: float


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one rank; a multiply-add counts as 2.

    Attributes:
        forward: of a forward pass after training.
        training: of a training step, as a mean over the run.
        observing: of a training step that observes the dense gradient for growth, at the density of the beginning.
    """

    forward: float
    training: float
    observing: float


@dataclass(frozen=True)
class Cost:
    """What a layer costs, in one way of training it."""

    bytes: Bytes
    communication: Communication
    flops: StepFlops


@dataclass(frozen=True)
class Speed:
    """Seconds of the sparse products over those of torch's dense ones, as measured; less than 1: sparse is faster.

    Attributes:
        forward, grad_input, grad_weight: of each product; None: the table of measurements does not serve.
        step: of the three together, if the dense ones take equally long, as they have as many FLOPs. What is no matrix product
            or convolution is not in it, nor are updates of the pattern.
        why: why something is None.
    """

    forward: float | None
    grad_input: float | None
    grad_weight: float | None
    step: float | None
    why: str | None = None


@dataclass(frozen=True)
class LayerEstimate:
    """One layer's row of an `Estimate`, or several rows together.

    Attributes:
        name: the layer's name in the model.
        shape: of the dense weight; None: several layers, or none.
        layout: how the weight is stored; None: dense, as PyTorch stores it.
        density: share of the positions in use, as a mean over the run.
        tokens: how many tokens it multiplies in a step: of a convolution, pixels of its output. None: several layers, or none.
        dense, sparse: what it costs in the dense run, and in the sparse one.
        speed: of the sparse one.
        dense_is_better: where it is, a sentence that says in what.
    """

    name: str
    shape: tuple[int, ...] | None
    layout: str | None
    density: float
    tokens: int | None
    dense: Cost
    sparse: Cost
    speed: Speed
    dense_is_better: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What training a model will cost, dense and sparse. `str()` formats it as a table.

    Attributes:
        layers: a row for each layer that multiplies by a weight, and one each for other products and other parameters, if any.
        model: all together.
        method, optimizer: as they are called.
        ranks: processes that train the model together. Everything is of one of them.
        total_steps: of the run.
        device: whose measurements the speed is predicted from, as the table of measurements names it.
        notes: sentences that tell what is unknown, and where figures come from.
        conclusion: what is saved; or that dense is better, and in what.
    """

    layers: tuple[LayerEstimate, ...]
    model: LayerEstimate
    method: str
    optimizer: str
    ranks: int
    total_steps: int
    device: str
    notes: tuple[str, ...]
    conclusion: str

    def __str__(self) -> str:
        from .table import formatted  # reads this module's classes

        return formatted(self)


def added(rows: Iterable[Any]) -> Any:
    """The sum of these rows of one dataclass, field by field; None where one is None."""
    rows = list(rows)
    kind, values = type(rows[0]), {}
    for one in fields(kind):
        column = [getattr(row, one.name) for row in rows]
        nested = hasattr(column[0], "__dataclass_fields__")
        values[one.name] = added(column) if nested else _sum(column)
    return kind(**values)


def _sum(values: list[Any]) -> Any:
    return None if any(value is None for value in values) else sum(values)


def together(name: str, rows: Sequence[LayerEstimate]) -> LayerEstimate:
    """The sum of these rows. Its density is that of the positions of all layers; its speed is weighted by the dense FLOPs."""
    positions = [0 if row.shape is None else prod(row.shape) for row in rows]
    density = sum(size * row.density for size, row in zip(positions, rows, strict=True)) / max(1, sum(positions))
    flops = [row.dense.flops.forward for row in rows]
    dense, sparse = added(row.dense for row in rows), added(row.sparse for row in rows)
    return LayerEstimate(name, None, None, density, None, dense, sparse, _mean([row.speed for row in rows], flops))


def _mean(speeds: list[Speed], weights: list[float]) -> Speed:
    def mean(values: list[float | None]) -> float | None:
        if any(value is None and weight for value, weight in zip(values, weights, strict=True)):
            return None
        pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
        return sum(value * weight for value, weight in pairs) / (sum(weights) or 1)

    why = next((one.why for one in speeds if one.why is not None), None)
    forward, grad_input, grad_weight, step = (
        mean(list(column)) for column in zip(*(_ratios(one) for one in speeds), strict=True)
    )
    return Speed(forward, grad_input, grad_weight, step, why)


def _ratios(speed: Speed) -> tuple[float | None, ...]:
    return speed.forward, speed.grad_input, speed.grad_weight, speed.step
