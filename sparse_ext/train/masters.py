"""Dense 2:4 masters of a Sparsifier: what their products take, masked decay, and the random numbers of sampled gradients."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer


def check_layouts(layers: Mapping[str, SparseLayer], method: Method) -> None:
    """ValueError unless the method can train these layers."""
    kind = type(method).__name__
    prunes, regrows = method.pruning(0, 1) is not None, method.is_update.__func__ is not Method.is_update  # type: ignore[attr-defined]
    if prunes and (others := [name for name, layer in layers.items() if layer.layout != "2:4"]):
        raise ValueError(f"{kind} trains layers of layout '2:4', got others: {', '.join(others)}")
    if regrows and not prunes and (dense := [name for name, layer in layers.items() if layer.pattern.master]):
        raise ValueError(f"{kind} regrows what is stored, got layers that hold a dense master: {', '.join(dense)}")


def prune(layer: SparseLayer, choice: str | None) -> None:
    """Has the layer's products take this of its master; left alone where they do already, as after loading a checkpoint."""
    if choice is not None and choice != layer.choice:
        layer.prune_(choice)


def sample(layer: SparseLayer, seed: int, before: torch.Tensor | None) -> None:
    """The layer's backward passes sample the output gradient from now on, by this stream, or as one before went on."""
    start = torch.tensor([seed, 0]) if before is None else before
    layer.sample_gradient(start.to(layer.weight.device, copy=True))


def decay_with(optimizer: torch.optim.Optimizer, layers: list[SparseLayer], factor: float, owner: object) -> None:
    """Adds masked decay to the gradients right before every step of the optimizer, for as long as the owner lives.

    There, and not in the backward pass: once for all micro-batches, behind clipping and unscaling.
    """

    def add(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(closure is not None for closure in (*args[1:], kwargs.get("closure"))):
            raise RuntimeError("expected optimizer.step() without a closure: masked decay needs the gradients before the step")
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves unscaling to fused optimizers
        for layer in layers:
            if layer.weight.grad is not None:
                layer.weight.grad += (
                    factor
                    * layer.weight.detach().masked_fill(layer.matrix_mask().view(-1), 0)
                    * (1.0 if scale is None else scale)
                )

    weakref.finalize(owner, optimizer.register_step_pre_hook(add).remove)
