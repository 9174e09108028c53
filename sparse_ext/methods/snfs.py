"""`SNFS`: layers exchange connections, by momentum. The nnz of all layers together is constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, Regrow
from .base import About, DropAndGrow
from .numbers import LayerNumbers, Time
from .schedules import SCHEDULES


@dataclass(frozen=True)
class SNFS(DropAndGrow):
    """Sparse networks from scratch, by sparse momentum (Dettmers & Zettlemoyer 2019, https://arxiv.org/abs/1907.04840).

    Every update drops a share of each layer's smallest weights. All that were dropped are shared out among the layers in
    proportion to the mean magnitude of the momentum at their remaining and dropped weights, and grow where it is largest.

    The momentum is an average of the dense gradient of every step, whatever the optimizer keeps: so the weight gradient is
    that of a dense layer, and one dense matrix is held. Unlike the paper: updates are counted in steps; positions that the
    update drops may grow again, as in RigL; and no layer gets more than `largest_growth` times the connections it was made
    for. What is left over goes to the others, in proportion. A layer that got no gradient since the last update takes no part.

    Args:
        drop_fraction: share of each layer's connections that the first update drops, rounded up.
        update_interval, t_end, schedule: see `DropAndGrow`; the paper updates after every epoch, until the end.
        last_fraction: the share at t_end, at most drop_fraction.
        momentum: the weight of the past in the average, in [0, 1).
        redistribute: False: every layer grows as many as it drops (the variant of RigL's reference code). So layouts with one
            density can be trained.
        largest_growth: how many times as many connections as it was made for a layer may get, at least 1. Its weight, gradient
            and optimizer state are so much longer.

    Raises:
        ValueError: an argument is out of range.
    """

    signals = ("momentum",)
    grow_by = "momentum"
    about = About(
        "[Dettmers & Zettlemoyer 2019](https://arxiv.org/abs/1907.04840)",
        grad_weight="1",
        optimizer_memory="d (up to largest_growth d), and D for the momentum",
        good_for="finding out which layers need how many weights; not for saving memory",
    )

    drop_fraction: float = 0.5
    t_end: float | int = 1.0
    last_fraction: float = 0.005
    momentum: float = 0.9
    redistribute: bool = True
    largest_growth: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.last_fraction <= self.drop_fraction:
            raise ValueError(f"expected last_fraction from 0 to drop_fraction ({self.drop_fraction}), got {self.last_fraction}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"expected momentum in [0, 1), got {self.momentum}")
        if not 1.0 <= self.largest_growth < math.inf:
            raise ValueError(f"expected a finite largest_growth of at least 1, got {self.largest_growth}")

    @property
    def changes_density(self) -> bool:  # type: ignore[override]
        return self.redistribute

    def observed_steps(self) -> int:
        return self.update_interval

    def max_density(self, density: float) -> float:
        return min(1.0, self.largest_growth * density) if self.redistribute else density

    def share(self, time: Time) -> float:
        """The share of its connections that a layer drops: drop_fraction at first, last_fraction at t_end."""
        factor = SCHEDULES[self.schedule](time.step / self.last_step(time.total_steps))
        return self.last_fraction + (self.drop_fraction - self.last_fraction) * factor

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not 0 < time.step < self.last_step(time.total_steps):
            return {}
        share = self.share(time)
        nnz = {name: layer.nnz for name, layer in layers.items() if layer.observed()}
        drop = {name: min(count, math.ceil(share * count)) for name, count in nnz.items()}
        grow = dict(drop)
        if self.redistribute:
            room = {name: self.limit(layers[name], count) - count + drop[name] for name, count in nnz.items()}
            weight = {name: layers[name].total_in_use(self.grow_by) / max(1, count) for name, count in nnz.items()}
            grow = shared_out(sum(drop.values()), weight, room) if any(weight.values()) else grow
        return {name: Regrow(drop[name], grow[name], grow_by=self.grow_by) for name in nnz if drop[name] or grow[name]}

    def limit(self, layer: LayerNumbers, nnz: int) -> int:
        """How many connections the layer may have; it is never made to lose some because it has more."""
        most = round(self.max_density(layer.end / max(1, layer.positions)) * layer.positions)
        return max(nnz, min(most, layer.capacity, layer.positions))


def shared_out(total: int, weight: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers that sum to `total`, in proportion to the weights, and none larger than its room.

    What is over for one without room goes to the others, in proportion. The largest remainders are rounded up; of equal ones
    the first. Where all that have room left weigh nothing, their room counts instead.

    Raises:
        ValueError: there is not enough room.
    """
    if total > sum(room.values()):
        raise ValueError(f"expected room for {total}, got {sum(room.values())}")
    shares: dict[str, float] = dict.fromkeys(weight, 0.0)
    left, open_ = total, list(weight)
    while left and open_:
        scale: Mapping[str, float] = weight if any(weight[name] for name in open_) else room
        whole = sum(scale[name] for name in open_)
        wanted = {name: left * (scale[name] / whole) for name in open_}
        full = [name for name in open_ if wanted[name] > room[name]]
        if not full:
            shares |= wanted
            break
        shares |= {name: float(room[name]) for name in full}
        left -= sum(room[name] for name in full)
        open_ = [name for name in open_ if name not in full]
    counts = {name: min(math.floor(share), room[name]) for name, share in shares.items()}
    over = total - sum(counts.values())
    for name in sorted((n for n in counts if counts[n] < room[n]), key=lambda name: counts[name] - shares[name])[:over]:
        counts[name] += 1
    return counts
