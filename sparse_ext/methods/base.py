"""What a method is: choices, never tensors. It says when a pattern may change, and what happens then to each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .schedules import SCHEDULES


class Time(NamedTuple):
    """Where a run is. Steps count from 1: step s is the s-th call of `Sparsifier.step()`; step 0 is the start."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class LayerNumbers:
    """A layer as methods see it.

    Attributes:
        rows, cols: of its matrix. capacity: length of its weight.
        layout: its name. dense_weight: whether the weight is dense, and products take a part of it.
        count: () -> nnz, and total: signal name -> sum of the magnitudes of its scores. Both may wait for the device.
    """

    rows: int
    cols: int
    capacity: int
    layout: str
    dense_weight: bool
    count: Callable[[], int]
    total: Callable[[str], float]

    @property
    def nnz(self) -> int:
        """Positions that products take."""
        return self.count()


# ---- actions: what a method can order for a layer -------------------------------------------------------------------------


@dataclass(frozen=True)
class Regrow:
    """Drop the `drop` stored positions that rank lowest, then grow the `grow` others that rank highest.

    Attributes:
        keep_by: "magnitude" of the weight, or the name of one of the method's signals.
        grow_by: "random" (a counter-based stream), or the name of one of the method's signals.
    """

    drop: int
    grow: int
    keep_by: str = "magnitude"
    grow_by: str = "random"


@dataclass(frozen=True)
class Choose:
    """Choose anew, by this rule, which part of its dense weight the layer's products take."""

    rule: str


@dataclass(frozen=True)
class Switch:
    """Store the weight in another layout from now on; nothing where it is in that layout already."""

    layout: str


Action = Regrow | Choose | Switch


# ---- methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A method of sparse training. The base class is the one that never changes anything.

    A subclass is a frozen dataclass whose fields are the paper's hyper-parameters. It overrides `plan`, and `is_update`.

    Attributes:
        signals: what it needs to know of the dense gradient: names in `train.SIGNALS`, or classes derived from `train.Signal`.
        dense_weight: whether it trains a dense weight of which products take a part; layers are converted.
        masked_decay: times the weights that products leave out, what is added to their gradient right before optimizer steps.
        samples_gradient: whether weight gradients are estimated from a sample of the output gradient.
    """

    signals: ClassVar[tuple[str | type[Any], ...]] = ()
    dense_weight: ClassVar[bool] = False

    @property
    def masked_decay(self) -> float:
        return 0.0

    @property
    def samples_gradient(self) -> bool:
        return False

    def is_update(self, time: Time) -> bool:
        """Whether the pattern may change at this step."""
        return False

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        """What happens to which layer at this step, by name; layers that are not named stay as they are.

        Called at updates, and at steps 0 and `load_state_dict` for what should be so then: `Choose` and `Switch`.
        """
        return {}

    def observed_steps(self) -> int:
        """Over how many steps up to an update, its own the last of them, its signals observe the dense gradient."""
        return 1 if self.signals else 0

    def observes(self, time: Time) -> bool:
        """Whether the signals observe the dense gradient of this step."""
        return any(self.is_update(Time(time.step + later, time.total_steps)) for later in range(self.observed_steps()))

    def max_density(self, density: float) -> float:
        """The largest density that a layer of this density will have: the capacity that it needs."""
        return density


@dataclass(frozen=True)
class DropAndGrow(Method):
    """Replace a falling share of each layer's connections every `update_interval` steps, nnz constant.

    Args:
        drop_fraction: share of a layer's connections replaced at the first update, in [0, 1].
        update_interval: steps between updates (Delta T).
        t_end: no update at or after this point: a share of total_steps (float in (0, 1]) or a step number (int).
        schedule: how the share falls until t_end; a name in SCHEDULES.
    """

    grow_by: ClassVar[str] = "random"

    drop_fraction: float = 0.3
    update_interval: int = 100
    t_end: float | int = 0.75
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_fraction <= 1.0:
            raise ValueError(f"expected drop_fraction in [0, 1], got {self.drop_fraction}")
        if self.update_interval < 1 or self.update_interval != int(self.update_interval):
            raise ValueError(f"expected a whole update_interval of at least 1, got {self.update_interval}")
        if not (0.0 < self.t_end <= 1.0 if isinstance(self.t_end, float) else self.t_end >= 0):
            raise ValueError(f"expected t_end as a share in (0, 1] or a step number (int), got {self.t_end}")
        if self.schedule not in SCHEDULES:
            known = ", ".join(map(repr, SCHEDULES))
            raise ValueError(f"expected schedule to be one of {known}, got {self.schedule!r}")

    def last_step(self, total_steps: int) -> float:
        """t_end as a step number."""
        return self.t_end * total_steps if isinstance(self.t_end, float) else self.t_end

    def is_update(self, time: Time) -> bool:
        return time.step % self.update_interval == 0 and 0 < time.step < self.last_step(time.total_steps)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not 0 < time.step < self.last_step(time.total_steps):
            return {}  # a postponed update may come this late
        share = self.drop_fraction * SCHEDULES[self.schedule](time.step / self.last_step(time.total_steps))
        counts = {name: math.floor(share * layer.nnz) for name, layer in layers.items()}
        return {name: Regrow(count, count, grow_by=self.grow_by) for name, count in counts.items() if count}
