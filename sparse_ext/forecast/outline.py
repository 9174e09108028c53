"""The dense and the sparse model on the device "meta", and what a Sparsifier would train of it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sparse_ext.methods import Method
from sparse_ext.nn import sparse_layers
from sparse_ext.nn.plain import enroll
from sparse_ext.train.dense_layers import methods_by_layer
from sparse_ext.train.names import named
from sparse_ext.train.optimizers.check import checked_state, trainable
from sparse_ext.train.optimizers.wrappers import sequence

Group = tuple[Method, list["Outline"]]


class Outline(NamedTuple):
    """A layer that a method trains, as `planned` takes it; see `ManagedLayer`."""

    name: str
    layer: Any
    method: Method
    home: str


def on_meta(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes alone.

    ValueError where they have none yet, or a layer is sparse: what a dense run would cost is no longer known then.
    """
    if sparse := list(sparse_layers(model)):
        raise ValueError(f"estimate: expected a dense model, got sparse layers ({', '.join(sparse[:3])}); densify_ a copy")
    tensors = [*model.parameters(), *model.buffers()]
    if any(map(is_lazy, tensors)):
        raise ValueError("estimate: expected weights with shapes, got lazy ones; run a batch through the model first")
    return copy.deepcopy(model, {id(tensor): _shape_of(tensor) for tensor in tensors})


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def groups_of(model: nn.Module, method: Any, optimizer: Any) -> list[Group]:
    """Each method with the layers of a model on "meta" that it would train; ValueError where a Sparsifier would refuse.

    Dense layers that it trains in part become instances of a subclass.
    """
    sparse = named(model, sparse_layers(model))
    layers, methods = methods_by_layer(model, sparse, method, optimizer)
    if not layers:
        return []
    # One layer of each length stands for all of them.
    alike = {(methods[name], one.weight.shape, one.weight.dtype): name for name, one in trainable(layers).items()}
    checked_state(sequence(optimizer), {name: layers[name] for name in alike.values()}, methods, False)
    for name in methods:
        enroll(layers[name])
    outlines = [Outline(name, layers[name], one.parts[0], layers[name].layout) for name, one in methods.items()]
    parts = {part: None for one in methods.values() for part in one.parts}
    return [(part, [one for one in outlines if part in methods[one.name].parts]) for part in parts]
