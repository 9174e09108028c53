"""Where the time of a step goes: each layer of a trained model by itself, on inputs that it had."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sparse_ext.nn import SparseLayer
from sparse_ext.report.run import LayerTime
from sparse_ext.timing import interleaved
from sparse_ext.train.flops.tokens import layers_of

from .task import moved
from .training import Training


def layer_times(training: Training, budget_s: float) -> tuple[LayerTime, ...]:
    """Of each layer that multiplies by a weight: forward and backward, in turns until about so many seconds are spent.

    On a copy of the model, with the inputs of one batch and random output gradients.
    """
    with training.random.unchanged():
        model = copy.deepcopy(training.model)
        layers = layers_of(model)
        inputs = _inputs_of(training, model, layers)
        functions: dict[str, Callable[[], object]] = {}
        for name, args in inputs.items():
            functions |= _passes(training, name, layers[name], args)
        if not functions:
            return ()
        device = training.device.type
        times = interleaved(functions, device=device, budget_s=budget_s, turn_s=0.0, least=3)
    return tuple(_row(name, layers[name], *(times[f"{way} {name}"].median_s for way in WAYS)) for name in inputs)


WAYS = ("forward", "backward")


def _inputs_of(training: Training, model: Any, layers: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """{name: arguments} of the first call of each layer, in the order of the calls."""
    found: dict[str, tuple[Any, ...]] = {}

    def note(name: str, layer: Any, args: tuple[Any, ...]) -> None:
        if args and name not in found:
            found[name] = tuple(_own(one) for one in args)

    handles = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    training.loss_of(model, moved(next(training.task.batches(training.seed)), training.device))
    for handle in handles:
        handle.remove()
    return found


def _own(value: Any) -> Any:
    """The tensor without its history; it requires a gradient if it did."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def _passes(training: Training, name: str, layer: Any, args: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    def forward() -> torch.Tensor:
        with training.autocast():
            return layer(*args)

    y = forward()
    wanted = [t for t in (*args, *layer.parameters()) if isinstance(t, torch.Tensor) and t.requires_grad]
    dy = torch.randn_like(y)
    backward = partial(torch.autograd.grad, y, wanted, dy, retain_graph=True)
    return {f"forward {name}": forward, f"backward {name}": backward} if wanted else {}


def _row(name: str, layer: Any, forward_s: float, backward_s: float) -> LayerTime:
    if isinstance(layer, SparseLayer):
        shape = layer.product.weight_shape
        return LayerTime(name, shape, layer.layout, layer.density, forward_s, backward_s)
    return LayerTime(name, tuple(layer.weight.shape), None, 1.0, forward_s, backward_s)
