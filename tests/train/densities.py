"""Methods that change how dense layers are, for tests that work it out by hand. They are not registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
