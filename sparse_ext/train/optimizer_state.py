"""Optimizer state: one slot map moves a weight, its gradient and every state tensor of its shape."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from sparse_ext.nn import SparseLayer
from sparse_ext.ops.pattern import taken

# Optimizers whose state is not one value per weight: rows and columns, or a matrix.
_NOT_ELEMENTWISE = ("adafactor", "shampoo", "muon", "soap", "sm3", "galore", "lbfgs")


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The one that steps, under wrappers that hold another as `.optimizer`."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def take_(tensor: torch.Tensor, source: torch.Tensor) -> None:
    """tensor[q] = old tensor[source[q]], or 0 where source[q] is -1; in place, 1-D."""
    tensor.copy_(taken(tensor, source))


def move_state_(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, source: torch.Tensor) -> None:
    """Moves the weight, its gradient and its optimizer state along the slot map; what is new is 0."""
    tensors = [weight.data, *state_tensors(optimizer, weight)]
    if weight.grad is not None:
        tensors.append(weight.grad)
    for tensor in tensors:
        take_(tensor, source)


def state_tensors(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> list[torch.Tensor]:
    """The state tensors of the weight's shape; ValueError if a tensor of another shape belongs to it too."""
    found = []
    for name, value in optimizer.state.get(weight, {}).items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            continue
        if value.shape != weight.shape:
            raise ValueError(
                f"{type(optimizer).__name__}: expected optimizer state of the weight's shape {tuple(weight.shape)}, got "
                f"{name!r} of shape {tuple(value.shape)}; a topology update can only move state that has one value per weight"
            )
        found.append(value)
    return found


def resize_state_(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, source: torch.Tensor, length: int) -> None:
    """Moves state tensors to a resized weight; length: its old length, source: the slot map. New elements are 0."""
    for name, value in optimizer.state.get(weight, {}).items():
        if isinstance(value, torch.Tensor) and value.shape == (length,):
            optimizer.state[weight][name] = taken(value, source)


def check_optimizer(optimizer: torch.optim.Optimizer, layers: Mapping[str, SparseLayer]) -> None:
    """ValueError unless the optimizer holds every layer's trainable weight, with one value each; warns about decay groups."""
    kind = type(optimizer).__name__
    if any(name in kind.lower() for name in _NOT_ELEMENTWISE):
        raise ValueError(
            f"expected an optimizer whose state has one value per weight (SGD, AdamW, ...), got {kind}: its factored or matrix "
            "state cannot follow a changing pattern"
        )
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, layer in layers.items() if id(layer.weight) not in held]
    if missing:
        raise ValueError(
            f"expected an optimizer that holds the weight of every sparse layer, got {kind} without "
            f"{', '.join(missing)}; build it from model.parameters() after sparsify_"
        )
    if untrainable := [name for name, layer in layers.items() if layer.weight.is_inference()]:
        raise ValueError(
            f"expected weights that can be trained, got inference tensors in {', '.join(untrainable)}: build, copy or load the "
            "model outside of inference mode"
        )
    for name, layer in layers.items():
        state_tensors(optimizer, layer.weight)
        twin = next(other for other, module in layers.items() if module.weight is layer.weight)
        if twin != name:
            raise ValueError(f"expected a weight of its own for every sparse layer, got one shared by {twin!r} and {name!r}")
    decays = any(group.get("weight_decay", 0) for group in optimizer.param_groups)
    undecayed = [name for name, layer in layers.items() if not held[id(layer.weight)].get("weight_decay", 0)]
    if decays and undecayed:
        warnings.warn(
            f"no weight decay for the sparse weights of {', '.join(undecayed)}, though other parameters decay: they are 1-D, "
            "and recipes that test `ndim < 2` put them among biases and norms",
            stacklevel=3,
        )
