"""Methods that change how dense layers are, and models to count, for tests that work it out by hand. None is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.methods import Action, LayerNumbers, Layers, Method, Regrow, Time


@dataclass(frozen=True)
class Steps(Method):
    """Each layer has so many positions more, or less, after every `interval` steps; the first is grown at random."""

    changes_density = True
    change: int = 1
    interval: int = 2

    def is_update(self, time: Time) -> bool:
        return time.step % self.interval == 0

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not time.step:
            return {}
        return {name: Regrow(max(0, -self.change), max(0, self.change)) for name in layers}

    def max_density(self, density: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Smallest(Method):
    """At one step, drops the `count` smallest magnitudes of all layers together."""

    changes_density = True
    count: int = 3
    at: int = 4

    def is_update(self, time: Time) -> bool:
        return time.step == self.at

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        assert isinstance(layers, Layers)
        if time.step != self.at:
            return {}
        return {name: Regrow(drop, 0) for name, drop in layers.smallest(self.count).items()}


def sparsifier_of(model: nn.Module, method: Method, total_steps: int = 20) -> tuple[torch.optim.Optimizer, sx.Sparsifier]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return optimizer, sx.Sparsifier(model, optimizer, method, total_steps=total_steps)


def two(method: Method, total_steps: int = 20) -> tuple[nn.Sequential, torch.optim.Optimizer, sx.Sparsifier]:
    """20 x 10 with 60 weights, then a dense layer 5 x 20."""
    model = nn.Sequential(sx.SparseLinear(10, 20, sparsity=0.7), nn.ReLU(), nn.Linear(20, 5))
    return model, *sparsifier_of(model, method, total_steps)
