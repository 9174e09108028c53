"""What a method is: choices, never tensors. It says when a pattern may change, and for a layer how much, by what rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from .schedules import SCHEDULES


class Growth(Enum):
    """What ranks the positions a layer may grow."""

    GRADIENT = "gradient"  # |dense gradient|: the last step before an update is armed to keep it, or the last few
    RANDOM = "random"  # a counter-based random stream


@dataclass(frozen=True)
class Regrow:
    """One layer's update: drop the `drop` entries of smallest magnitude, grow `grow` positions."""

    drop: int
    grow: int
    growth: Growth


@dataclass(frozen=True)
class Method:
    """A dynamic sparse training method. The base class is the one that never changes anything.

    Subclasses are frozen dataclasses whose fields are the paper's hyper-parameters; they override `plan`, and `is_update`.
    Steps count from 1: step s is the s-th call of `Sparsifier.step()`.
    """

    def is_update(self, step: int, total_steps: int) -> bool:
        """Whether the pattern may change at this step."""
        return False

    def scored_steps(self) -> int:
        """How many steps, the update's own the last of them, add up the dense gradient that ranks positions; 0: none."""
        return 0

    def is_scored(self, step: int, total_steps: int) -> bool:
        """Whether the dense gradient of this step counts in an update."""
        return any(self.is_update(step + later, total_steps) for later in range(self.scored_steps()))

    def plan(self, nnz: int, step: int, total_steps: int) -> Regrow | None:
        """What happens to a layer with nnz entries at this step; None: nothing. Looks at nothing else."""
        return None

    def pruning(self, step: int, total_steps: int) -> str | None:
        """What products take of a dense 2:4 master after this step, a name in PRUNINGS; None: the method needs no master.

        Step 0 is the start. A method that prunes chooses anew at every update.
        """
        return None

    def masked_decay(self) -> float:
        """What is added to the gradient of a master's weights that products leave out, times these weights."""
        return 0.0

    def samples_gradient(self) -> bool:
        """Whether the weight gradient comes from a 2:4 sample of the output gradient."""
        return False

    def max_density(self, density: float) -> float:
        """The largest density that a layer of this density will have: what it needs room for."""
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

    def is_update(self, step: int, total_steps: int) -> bool:
        return step % self.update_interval == 0 and 0 < step < self.last_step(total_steps)

    def growth(self) -> Growth:
        """The rule for new connections."""
        raise NotImplementedError

    def scored_steps(self) -> int:
        return int(self.growth() is Growth.GRADIENT)

    def plan(self, nnz: int, step: int, total_steps: int) -> Regrow | None:
        if step >= self.last_step(total_steps):
            return None  # a postponed update may come this late
        progress = step / self.last_step(total_steps)
        count = math.floor(self.drop_fraction * SCHEDULES[self.schedule](progress) * nnz)
        return Regrow(count, count, self.growth()) if count else None
