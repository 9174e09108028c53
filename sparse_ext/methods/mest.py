"""`MEST`: drops by weight and gradient, grows at random, less and less; may hold more connections than it ends with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from .actions import Action, Regrow
from .base import About, Method
from .checks import check_interval
from .numbers import LayerNumbers, Time


@dataclass(frozen=True)
class MEST(Method):
    """Memory-economic sparse training (Yuan et al. 2021, https://arxiv.org/abs/2110.14032, section 3).

    Elastic mutation (EM): every update drops the connections of smallest |w| + gradient_weight * |g|, where g is the gradient
    that the optimizer's step has just used, and grows as many at random. No dense gradient is ever computed. Soft memory bound
    (EM&S, `soft=True`): what was dropped last stays for another interval beside what has grown. So the first update grows only,
    every other one drops what is above the target, then grows again, and the last one drops only.

    Unlike the paper's code, updates are counted in steps, and new weights may grow where others have just been dropped. The
    mutation is a share of a layer's connections. The code has shares of all positions: 0.02 and 0.01 at a density of 0.1, which
    are the defaults here.

    Args:
        mutation: shares of a layer's connections that an update replaces, one for each phase of the run, each in [0, 1].
        until: where these phases end, ascending shares of total_steps in (0, 1]; after the last, nothing changes (as in the
            paper's code: epochs 90 and 120 of 160).
        update_interval: steps between updates, at least 1 (the paper's code: 5 epochs).
        gradient_weight: lambda, finite, at least 0 (the default of the paper's code).
        soft: EM&S in place of EM. Layers need 1 + max(mutation) times the memory, and change their density.

    Raises:
        ValueError: an argument is out of range.
    """

    signals = ("weight and gradient",)
    about = About(
        "[Yuan et al. 2021](https://arxiv.org/abs/2110.14032)",
        forward="d; EM&S: (1 + mutation) d",
        grad_input="d; EM&S: (1 + mutation) d",
        grad_weight="d; EM&S: (1 + mutation) d",
        optimizer_memory="d; EM&S: (1 + largest mutation) d",
        good_for="little memory: no dense gradient, as SET, but weights that are still moving stay",
    )

    mutation: tuple[float, ...] = (0.2, 0.1)
    until: tuple[float, ...] = (0.5625, 0.75)
    update_interval: int = 100
    gradient_weight: float = 0.5
    soft: bool = False

    def __post_init__(self) -> None:
        for name in ("mutation", "until"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # methods are compared and hashed
        if not self.mutation or not all(0.0 <= share <= 1.0 for share in self.mutation):
            raise ValueError(f"expected mutation as shares in [0, 1], one at least, got {self.mutation}")
        ascending = all(a < b for a, b in pairwise((0.0, *self.until)))
        if len(self.until) != len(self.mutation) or not ascending or not self.until[-1] <= 1.0:
            raise ValueError(
                f"expected until as ascending shares in (0, 1], one for each of the {len(self.mutation)} of mutation, got "
                f"{self.until}"
            )
        check_interval("update_interval", self.update_interval)
        if not 0.0 <= self.gradient_weight < math.inf:
            raise ValueError(f"expected a finite gradient_weight of at least 0, got {self.gradient_weight}")

    @property
    def changes_density(self) -> bool:  # type: ignore[override]
        return self.soft

    def max_density(self, density: float) -> float:
        return min(1.0, (1.0 + max(self.mutation)) * density) if self.soft else density

    def end(self, total_steps: int) -> int:
        """The first step after the last phase; if that is the whole run, its last step."""
        return min(total_steps, math.ceil(self.until[-1] * total_steps))

    def is_update(self, time: Time) -> bool:
        end, regular = self.end(time.total_steps), time.step > 0 and time.step % self.update_interval == 0
        if self.soft:  # also later: a layer that got no gradient at the end drops then what it still has
            return regular or (time.step == end and end > 0)
        return regular and time.step < end

    def share(self, time: Time) -> float:
        """The share of its connections that a layer replaces at this step."""
        if not 0 < time.step < self.end(time.total_steps):
            return 0.0
        return next((m for m, t in zip(self.mutation, self.until, strict=True) if time.step < t * time.total_steps), 0.0)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if time.step <= 0:
            return {}
        share = self.share(time)
        actions: dict[str, Action] = {}
        for name, layer in layers.items():
            nnz = layer.nnz
            drop = grow = math.floor(share * nnz)
            if self.soft:
                most = min(layer.end + math.floor(share * layer.end), layer.positions, max(layer.capacity, layer.end))
                drop = max(0, nnz - layer.end)
                grow = max(0, most - nnz + drop)
            if drop or grow:
                actions[name] = Regrow(drop, grow, keep_by=self.signals[0])
        return actions
