"""Arms that are a smaller dense network, of the size with which a run takes as long as the matched arm's: the honest rivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from sparse_ext.nn import sparse_layers

from ..task import Task, offers
from .base import Matched, Size
from .low_rank import thin_

if TYPE_CHECKING:
    from ..bench import Bench

LEAST, ROUNDS, CLOSE = 1 / 64, 7, 0.02


def largest_share(ratio: Callable[[float], float]) -> tuple[float, str | None]:
    """The largest share in [LEAST, 1] with which a run takes no longer than the matched one, and a sentence if there is none.

    By halving the interval of the share's logarithm.

    Args:
        ratio: of a share: its seconds over the matched arm's. It grows with the share, up to the noise of a timing.
    """
    low, high = LEAST, 1.0
    if ratio(high) <= 1 + CLOSE:
        return high, "the whole network, as even that takes no longer than the matched arm"
    if (at_least := ratio(low)) > 1 + CLOSE:
        return (
            low,
            f"{percent(LEAST)}, the least that is tried, though it takes {at_least:.2f} times the matched arm's seconds",
        )
    for _ in range(ROUNDS):
        middle = sqrt(low * high)
        found = ratio(middle)
        if abs(found - 1) <= CLOSE:
            return middle, None
        low, high = (middle, high) if found < 1 else (low, middle)
    return low, None


def percent(share: float) -> str:
    """Such as "12.5 %"."""
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class Smaller(Matched):
    """As many steps as the matched arm, with a network that takes as long.

    Attributes:
        share: of the width, or of the weights, in (0, 1]; 0: found before training.
    """

    MATCHED: ClassVar[str] = "seconds"

    share: float = 0.0

    def check(self, task: Task) -> None:
        super().check(task)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected a number in (0, 1], or 0 for one that is found, got {self.share}")

    def size(self, bench: Bench) -> Size:
        whole = Size(bench.steps, 1.0, self.replaced(bench))
        if self.share:
            return replace(whole, share=self.share)
        share, note = largest_share(lambda one: bench.paces(self, replace(whole, share=one)).ratio(bench.steps))
        return replace(whole, share=share, note=note)

    def replaced(self, bench: Bench) -> tuple[str, ...]:
        """Names of the layers that this arm replaces."""
        return ()


@dataclass(frozen=True)
class Narrower(Smaller):
    """The task's own model of a smaller width."""

    KIND: ClassVar[str] = "narrower"

    def check(self, task: Task) -> None:
        super().check(task)
        if not offers(task.model, "width"):
            raise ValueError(
                "kind: 'narrower' expects a task whose model(width=1.0) makes a network of a smaller width, got "
                f"{type(task).__name__} without; 'low rank' needs none"
            )

    def model(self, task: Task, size: Size, device: torch.device) -> nn.Module:
        return task.model(width=size.share).to(device)  # type: ignore[call-arg]

    def about(self, size: Size) -> str:
        return f"a dense network of {percent(size.share)} of the width, {size.steps} steps in {self.precision}"


@dataclass(frozen=True)
class LowRank(Smaller):
    """The layers that are sparse in the matched arm become two thin ones, one after the other, of `share` of the weights."""

    KIND: ClassVar[str] = "low rank"

    def replaced(self, bench: Bench) -> tuple[str, ...]:
        names = tuple(sparse_layers(bench.rival_model()))
        if not names:
            raise ValueError(f"kind: 'low rank' expects a matched arm with sparse layers, got {bench.rival.name!r} without")
        return names

    def model(self, task: Task, size: Size, device: torch.device) -> nn.Module:
        return thin_(super().model(task, size, device), size.layers, size.share)

    def about(self, size: Size) -> str:
        return (
            f"{len(size.layers)} layers as products of two thin ones with {percent(size.share)} of the weights, which begin as "
            f"the dense ones' largest singular values; {size.steps} steps in {self.precision}"
        )
