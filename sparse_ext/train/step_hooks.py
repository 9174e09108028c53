"""What a Sparsifier has its layers and optimizers do in every step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from . import dense_weights
from .managed import ManagedLayer
from .wrappers import innermost


def follow_steps(layers: Sequence[ManagedLayer], observes: bool, owner: object) -> None:
    """Registers hooks on the innermost optimizers, which are removed when the owner is freed: so they must not hold it.

    They add masked decay to the gradients of the weights that an optimizer trains; observes: and end their observation.
    """
    trained: dict[Any, list[ManagedLayer]] = {}
    for managed in layers:
        trained.setdefault(innermost(managed.optimizer, managed.layer.weight), []).append(managed)
    for optimizer, group in trained.items():
        if any(managed.method.masked_decay for managed in group):
            dense_weights.decay_with(optimizer, group, owner)
        if observes and hasattr(optimizer, "_optimizer_step_post_hooks"):  # some wrappers lack it
            weakref.finalize(owner, optimizer.register_step_post_hook(partial(_has_stepped, group)).remove)


def _has_stepped(layers: Sequence[ManagedLayer], *_: Any) -> None:
    for managed in layers:
        managed.observation.close()


def sample_gradients(layers: Sequence[ManagedLayer], seed: Callable[[str], int], offsets: Mapping[str, int]) -> None:
    """Has layers sample their output gradients, if the method wants that and the layout can.

    Args:
        seed: gives the seed of a layer's random stream by the layer's name.
        offsets: {layer's name: how often it has sampled already}.
    """
    for managed in layers:
        layer = managed.layer
        if managed.method.samples_gradient and layer.can_sample:
            start = [seed(managed.name), offsets.get(managed.name, 0)]
            layer.sample_gradient(torch.tensor(start, device=layer.weight.device))
        elif layer.rng is not None:  # of a method before this one
            layer.sample_gradient(None)
