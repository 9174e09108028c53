"""CHTs and CHTss grow where the layer's own topology predicts a connection, and need no gradient for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, Regrow
from .base import About, DropAndGrow
from .numbers import LayerNumbers, Time


@dataclass(frozen=True)
class CHTs(DropAndGrow):
    """Cannistraci-Hebb training, soft rule (Zhang et al. 2025, https://arxiv.org/abs/2501.19107v4, section 3).

    A layer is a bipartite graph of its outputs and inputs, of a convolution's matrix [out, in / groups * kernel size]. An
    update removes weights at random, with chances to stay in proportion to |w| ** T, where T rises during the run. It grows at
    random, in proportion to CH2-L3n (`train.LinkPrediction`): how strongly paths of length 3 through what is left predict a
    connection. Where too few positions have such paths, growth goes on at random among the others, so counts are exact.

    Needs no dense gradient. An update computes 4 nnz (rows + cols) FLOPs for a layer, in float64, and holds three matrices
    [rows, cols] for that time.

    Unlike the authors' code: attention heads are not treated apart, neurons without inputs or outputs keep their weights (no
    chain removal), an update takes place in addition to the optimizer's step, and updates end at t_end.

    Args:
        first_power, last_power: T at the start, and at t_end. At least 0; the larger, the closer to magnitude pruning.
        grow_power: growth is in proportion to score ** grow_power; the paper's is 1. None: the largest scores grow, as in the
            authors' later code; among equal ones, as where no path leads, the lower position.
        receptive_field: r in [0, 1] of the patterns that `sparsify_(model, ..., method=CHTs())` makes: inputs near an output's
            own place are preferred, the more the smaller r is (bipartite receptive field, with a fixed degree of the outputs).
            None: any random pattern.
        drop_fraction (zeta), update_interval, t_end, schedule: see `DropAndGrow`.

    Raises:
        ValueError: an argument is out of range.
    """

    signals = ("links",)
    grow_by = "links"
    about = About(
        "Zhang et al. 2025, https://arxiv.org/abs/2501.19107",
        good_for="growth that needs no gradient, at high sparsity",
    )

    drop_fraction: float = 0.1
    first_power: float = 1.0
    last_power: float = 9.0
    grow_power: float | None = 1.0
    receptive_field: float | None = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_power", "last_power", "grow_power"):
            power = getattr(self, name)
            if power is not None and not 0.0 <= power < math.inf:
                raise ValueError(f"expected a finite {name} of at least 0, got {power}")
        if self.receptive_field is not None and not 0.0 <= self.receptive_field <= 1.0:
            raise ValueError(f"expected receptive_field in [0, 1] or None, got {self.receptive_field}")

    @property
    def first_spread(self) -> float | None:
        return self.receptive_field

    def observed_steps(self) -> int:
        return 0  # of gradients

    def power(self, time: Time) -> float:
        """T at this step."""
        progress = min(1.0, time.step / max(1.0, self.last_step(time.total_steps)))
        return self.first_power + (self.last_power - self.first_power) * progress

    def wanted(self, layer: LayerNumbers, time: Time) -> int:
        """The layer's nnz after this step."""
        return layer.nnz

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not self.is_update(time):
            return {}
        actions: dict[str, Action] = {}
        for name, layer in layers.items():
            nnz, wanted = layer.nnz, self.wanted(layer, time)
            count = math.floor(self.share(time) * wanted)
            if count or nnz > wanted:
                actions[name] = Regrow(
                    nnz - wanted + count,
                    count,
                    grow_by=self.grow_by,
                    keep_power=self.power(time),
                    grow_power=self.grow_power,
                    after_drop=True,
                )
        return actions


@dataclass(frozen=True)
class CHTss(CHTs):
    """CHTs with sigmoid density decay (Zhang et al. 2025, https://arxiv.org/abs/2501.19107v4, section 3.3).

    Layers begin with `first_density`, and lose weights along a logistic path. The last update, just before t_end, leaves each
    with exactly the nnz that it was made for. A layer that is made denser than that keeps its nnz.

    Unlike the paper: what the decay removes is drawn together with what the update replaces, by |w| ** T; there, it is the part
    of the smallest relative importance.

    Args:
        first_density: with which layers begin, in (0, 1].
        steepness: k of the logistic path; the larger, the more of the decay lies in the middle. Above 0.
        first_power, last_power, grow_power, receptive_field: see `CHTs`.
        drop_fraction (zeta), update_interval, t_end, schedule: see `DropAndGrow`; the authors end the decay at 0.8 of a run.

    Raises:
        ValueError: an argument is out of range.
    """

    changes_density = True
    about = About(
        "Zhang et al. 2025, https://arxiv.org/abs/2501.19107",
        forward="d(t)",
        grad_input="d(t)",
        grad_weight="d(t)",
        optimizer_memory="first_density",
        good_for="as CHTs, where a denser start is worth its cost",
    )

    t_end: float | int = 0.8
    first_density: float = 0.5
    steepness: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.first_density <= 1.0:
            raise ValueError(f"expected first_density in (0, 1], got {self.first_density}")
        if not 0.0 < self.steepness < math.inf:
            raise ValueError(f"expected a finite steepness above 0, got {self.steepness}")

    def initial_density(self, density: float) -> float:
        return max(density, self.first_density)

    def end_of_decay(self, total_steps: int) -> int:
        """The last step before t_end; an update, whatever the interval is. At least 1."""
        return max(1, min(math.ceil(self.last_step(total_steps)) - 1, total_steps))

    def is_update(self, time: Time) -> bool:
        return super().is_update(time) or time.step == self.end_of_decay(time.total_steps)

    def decayed(self, progress: float) -> float:
        """The share of the decay that is done: from 0 at progress 0 to 1 at 1, exactly."""
        if progress >= 1.0:
            return 1.0
        low, here = (1.0 / (1.0 + math.exp(-self.steepness * x)) for x in (-1.0, 2.0 * progress - 1.0))
        return max(0.0, 0.5 + (here - 0.5) / (1.0 - 2.0 * low))

    def wanted(self, layer: LayerNumbers, time: Time) -> int:
        first = round(self.initial_density(layer.end / max(1, layer.positions)) * layer.positions)
        gone = (first - layer.end) * self.decayed(time.step / self.end_of_decay(time.total_steps))
        return min(layer.nnz, first - round(gone))
