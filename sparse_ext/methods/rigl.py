"""RigL, SET and the static pattern: drop the smallest magnitudes, grow as many, nnz constant."""

from __future__ import annotations

from dataclasses import dataclass

from .base import DropAndGrow, Method


@dataclass(frozen=True)
class Static(Method):
    """The pattern stays as it was initialised."""


@dataclass(frozen=True)
class SET(DropAndGrow):
    """Sparse Evolutionary Training: grows at random positions (Mocanu et al. 2018, https://arxiv.org/abs/1707.04780).

    As the field uses it: magnitude drop over both signs, new weights 0, updates counted in steps. No dense gradient ever.
    """


@dataclass(frozen=True)
class RigL(DropAndGrow):
    """Grows where the dense gradient is largest (Evci et al. 2020, https://arxiv.org/abs/1911.11134, Algorithm 1).

    The gradient is that of the update's own step, summed over micro-batches and ranks before its magnitude is taken.

    Args:
        gradient_steps: the last steps up to an update over which that sum runs, from 1 (the paper) to update_interval. The
            gradient of one small batch is mostly noise, and growth by it can be worse than random growth; each step more costs
            one dense weight gradient, and the sum is held in memory until the update.
    """

    signals = ("gradient",)
    grow_by = "gradient"

    gradient_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.gradient_steps <= self.update_interval or self.gradient_steps != int(self.gradient_steps):
            raise ValueError(
                f"expected a whole gradient_steps from 1 to update_interval ({self.update_interval}), got {self.gradient_steps}"
            )

    def observed_steps(self) -> int:
        return self.gradient_steps
