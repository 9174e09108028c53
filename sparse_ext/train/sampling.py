"""Layers that sample their output gradients: each has random numbers of its own, which go on after a resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from .managed import ManagedLayer


def sample(layers: Sequence[ManagedLayer], offsets: Mapping[str, int], seed: Callable[[str], int]) -> None:
    """Has layers sample their output gradients, if the method wants that and the layout can.

    Args:
        offsets: {layer name: rng offset} to go on from; 0 where none is given.
        seed: (layer name) -> the seed of its random numbers in this process.
    """
    for managed in layers:
        layer = managed.layer
        if managed.method.samples_gradient and layer.can_sample:
            rng = [seed(managed.name), offsets.get(managed.name, 0)]
            layer.sample_gradient(torch.tensor(rng, device=layer.weight.device))
        elif layer.rng is not None:  # of a method before this one
            layer.sample_gradient(None)


def offsets_of(layers: Sequence[ManagedLayer]) -> dict[str, int]:
    """{layer name: rng offset}, how often it has sampled its output gradient."""
    return {m.name: int(m.layer.rng[1]) for m in layers if m.layer.rng is not None}
