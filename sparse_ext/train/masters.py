"""Dense 2:4 masters of a Sparsifier: what their products take, masked decay, and the random numbers of sampled gradients."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer

VERIFIED = 100  # every so many updates ranks compare what they chose


def check(layers: Mapping[str, SparseLayer], method: Method, replace_step: bool) -> None:
    """ValueError unless the method can train these layers."""
    kind = type(method).__name__
    prunes, regrows = method.pruning(0, 1) is not None, method.is_update.__func__ is not Method.is_update  # type: ignore[attr-defined]
    if prunes and replace_step:
        raise ValueError(f"{kind} changes what products take, between optimizer steps: expected replace_step=False, got True")
    if prunes and (others := [name for name, layer in layers.items() if layer.layout != "2:4"]):
        raise ValueError(f"{kind} trains layers of layout '2:4', got others: {', '.join(others)}")
    if regrows and not prunes and (dense := [name for name, layer in layers.items() if layer.pattern.master]):
        raise ValueError(f"{kind} regrows what is stored, got layers that hold a dense master: {', '.join(dense)}")


def prune(layer: SparseLayer, choice: str | None) -> None:
    """Has the layer's products take this of its master; left alone where they do already, as after loading a checkpoint."""
    if choice is not None and choice != layer.choice:
        layer.prune_(choice)


def sample(layer: SparseLayer, seed: int, count: int) -> None:
    """The layer's backward passes sample the output gradient from now on, by this stream, of which `count` have been drawn."""
    layer.sample_gradient(torch.tensor([seed, count], device=layer.weight.device))


def decay_with(optimizer: torch.optim.Optimizer, layers: list[SparseLayer], factor: float, owner: object) -> None:
    """Adds masked decay to the gradients right before every step of the optimizer, for as long as the owner lives.

    There, and not in the backward pass: once for all micro-batches, behind clipping and unscaling.
    """

    def decay() -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves unscaling to fused optimizers
        for layer in layers:
            if layer.weight.grad is not None and layer.choice != "dense":
                rest = _left_out(layer)
                layer.weight.grad.add_(rest if scale is None else rest * scale, alpha=factor)

    @torch.no_grad()
    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            decay()
            return None

        def with_decay() -> Any:  # the gradients are there when the closure has run
            loss = closure()
            with torch.no_grad():
                decay()
            return loss

        return (args[0], with_decay, *args[2:]), {name: value for name, value in kwargs.items() if name != "closure"}

    weakref.finalize(owner, optimizer.register_step_pre_hook(before).remove)


def _left_out(layer: SparseLayer) -> torch.Tensor:
    """The master's weights that products leave out, 0 at the others; [capacity]."""
    weight = layer.weight.detach()
    if layer.choice == "soft":
        return weight.masked_fill(layer.matrix_mask().view(-1), 0)
    taken = layer.matrix().view(-1)
    return torch.sub(weight, taken, out=taken)
