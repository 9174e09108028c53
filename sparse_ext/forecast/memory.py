"""The bytes of a model on the device "meta", layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from sparse_ext.memory import bytes_of, index_tensors
from sparse_ext.methods import Method
from sparse_ext.ops import GradientTotal
from sparse_ext.train.signals import signal_classes

from .optimizer import State, kind_of
from .result import Bytes

REST = "other parameters"


def bytes_by_layer(model: nn.Module, names: Collection[str], state: State | None) -> dict[str, Bytes]:
    """{name: bytes} of the layers of these names, and of the parameters of none of them as REST.

    state: what the optimizer keeps; None: it is unknown.
    """
    parameters: dict[str, list[nn.Parameter]] = {name: [] for name in (*names, REST)}
    for full, parameter in model.named_parameters():
        parameters[_owner(full, names)].append(parameter)
    found = {}
    for name, own in parameters.items():
        trained = [one for one in own if one.requires_grad]
        kept = None if state is None else sum(state.each[kind_of(one)] for one in trained)
        if kept is not None and state is not None and name == REST:
            kept += state.common
        indices = [] if name == REST else index_tensors(model.get_submodule(name))
        found[name] = Bytes(bytes_of(own), bytes_of(indices), bytes_of(trained), kept, method=0)
    return found


def _owner(parameter: str, names: Collection[str]) -> str:
    """The layer that a parameter of this name belongs to, or REST."""
    name = parameter
    while "." in name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return REST


def bytes_of_method(layer: Any, methods: list[Method], ranks: int) -> int:
    """What these methods keep for a layer on "meta", at the peak, beside weight, gradient and state of the optimizer.

    In one process, with one backward pass in a step, growth by that step's gradient alone needs nothing dense. A dense
    gradient counts where there are several ranks, or the method's signals observe several steps.
    """
    weight, positions = layer.weight, layer.product.rows * layer.product.cols
    kept = (positions + 7) // 8  # `Coverage`, at most
    for method in methods:
        kept += bytes_of(_observed(layer, method, ranks))
        if method.importance is not None:
            scores = torch.promote_types(weight.dtype, torch.float32)
            kept += weight.numel() * (scores.itemsize + torch.bool.itemsize)  # and which of them train
    return kept


def dense_gradient(layer: Any, method: Method, ranks: int) -> torch.Tensor | None:
    """The dense gradient that a step which observes this layer sums up, on "meta"; None: it is streamed, or there is none."""
    observing = [kind for kind in signal_classes(method.signals).values() if kind.OBSERVES]
    if not observing:
        return None
    streams = method.observed_steps() == 1 and all(kind.STREAMS for kind in observing)
    if ranks == 1 and streams and layer.pattern.growth_sink(layer.weight, lambda: layer.pattern, 1) is not None:
        return None
    return GradientTotal(layer.weight, layer.product).total


def _observed(layer: Any, method: Method, ranks: int) -> list[torch.Tensor]:
    """The dense gradient, and what the signals keep of it."""
    total = dense_gradient(layer, method, ranks)
    if total is None:
        return []
    found = [total]
    for kind in signal_classes(method.signals).values():
        if kind.OBSERVES:
            signal = kind(layer.product.rows, layer.product.cols, total.dtype, total.device, method)
            signal.observe(total if len(found) == 1 else total.clone(), range(total.shape[0]))
            found += [value for value in vars(signal).values() if isinstance(value, torch.Tensor)]
    return found
