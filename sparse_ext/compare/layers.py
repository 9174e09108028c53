"""Where the time of a step goes: each layer of a trained model by itself, on what it was given in a step; and its stages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from sparse_ext.nn import SparseLayer
from sparse_ext.report.run import LayerTime, Stage
from sparse_ext.timing import interleaved
from sparse_ext.train.flops.tokens import layers_of

from .calls import record
from .meter import Meter
from .stages import measure_stages
from .task import moved
from .training import Training

WAYS = ("forward", "backward")


def layer_times(training: Training, budget_s: float) -> tuple[LayerTime, ...]:
    """Of each layer that multiplies by a weight: forward and backward, in turns until about so many seconds are spent."""
    with training.random.unchanged():
        model, step = _step_of(training)
        layers = layers_of(model)
        functions: dict[str, Callable[[], object]] = {}
        for call in record(model, step, layers):
            backward = call.backward()
            if backward is not None and f"forward {call.name}" not in functions:
                functions |= {f"forward {call.name}": call.forward, f"backward {call.name}": backward}
        if not functions:
            return ()
        times = interleaved(functions, device=training.device.type, budget_s=budget_s, turn_s=0.0, least=3)
    names = [name.partition(" ")[2] for name in functions if name.startswith("forward ")]
    return tuple(_row(name, layers[name], *(times[f"{way} {name}"].median_s for way in WAYS)) for name in names)


def stages_of(training: Training, count: int, frequencies: Sequence[int], meter: Meter) -> tuple[tuple[Stage, ...], str | None]:
    """Of the trained model, as pipeline stages at each frequency in MHz; or none, and a sentence that says why."""
    with training.random.unchanged():
        model, step = _step_of(training)
        return measure_stages(model, step, count, meter, frequencies=frequencies)


def _step_of(training: Training) -> tuple[nn.Module, Callable[[], object]]:
    """A copy of the model, and a forward and backward pass of it."""
    model = copy.deepcopy(training.model)
    batch = moved(next(training.task.batches(training.seed)), training.device)
    return model, lambda: training.loss_of(model, batch).backward()


def _row(name: str, layer: Any, forward_s: float, backward_s: float) -> LayerTime:
    if isinstance(layer, SparseLayer):
        shape = layer.product.weight_shape
        return LayerTime(name, shape, layer.layout, layer.density, forward_s, backward_s)
    return LayerTime(name, tuple(layer.weight.shape), None, 1.0, forward_s, backward_s)
