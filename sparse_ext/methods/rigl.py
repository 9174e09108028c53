"""RigL, SET and the static pattern: drop the smallest magnitudes, grow as many, nnz constant."""

from __future__ import annotations

from dataclasses import dataclass

from .base import DropAndGrow, Growth, Method


@dataclass(frozen=True)
class Static(Method):
    """The pattern stays as it was initialised."""


@dataclass(frozen=True)
class SET(DropAndGrow):
    """Sparse Evolutionary Training: grows at random positions (Mocanu et al. 2018, https://arxiv.org/abs/1707.04780).

    As the field uses it: magnitude drop over both signs, new weights 0, updates counted in steps. No dense gradient ever.
    """

    def growth(self) -> Growth:
        return Growth.RANDOM


@dataclass(frozen=True)
class RigL(DropAndGrow):
    """Grows where the dense gradient is largest (Evci et al. 2020, https://arxiv.org/abs/1911.11134, Algorithm 1).

    The gradient is that of the step before the update, summed over micro-batches and ranks before its magnitude is taken.
    """

    def growth(self) -> Growth:
        return Growth.GRADIENT
