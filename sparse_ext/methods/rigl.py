"""RigL and SET drop the smallest magnitudes and grow as many connections; Static changes nothing. nnz is constant."""

from __future__ import annotations

from dataclasses import dataclass, field

from .base import LATER, About, DropAndGrow, Method
from .checks import check_gradient_steps


@dataclass(frozen=True)
class Static(Method):
    """Static sparse training: the pattern never changes."""

    about = About(
        "[Mocanu et al. 2016](https://arxiv.org/abs/1604.05978)",
        good_for="the baseline that every other method has to beat; nothing happens beside the training",
    )


@dataclass(frozen=True)
class SET(DropAndGrow):
    """Sparse Evolutionary Training: grows at random positions (Mocanu et al. 2018, https://arxiv.org/abs/1707.04780).

    Needs no dense gradient. As in later work, and unlike the paper: positive and negative weights are ranked together by
    magnitude, new weights are 0, and updates are counted in steps.

    Args:
        drop_fraction, update_interval, t_end, schedule: see `DropAndGrow`.
        unfired_first: positions that were never in use grow before all others, so that coverage rises as fast as it can (an
            addition of this package). An update then holds random numbers and ranks of all positions for a moment: some
            matrices [rows, cols] of 8 bytes for each element.
    """

    about = About(
        "[Mocanu et al. 2018](https://arxiv.org/abs/1707.04780)",
        good_for="the least memory: no dense gradient, ever; large layers that RigL's gradient would not fit",
    )

    unfired_first: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class RigL(DropAndGrow):
    """Grows where the dense gradient is largest (Evci et al. 2020, https://arxiv.org/abs/1911.11134, Algorithm 1).

    The dense gradient is summed over micro-batches, ranks and `gradient_steps` before its magnitude is taken.

    Args:
        gradient_steps: how many steps, the update's own the last, the gradient is summed over; from 1 (the paper) to
            update_interval. With small batches one step's gradient is mostly noise, and growth by it can be worse than random
            growth. Every further step costs one dense weight gradient; the sum [rows, cols] is held until the update.
        unfired_first: positions that were never in use grow before all others, these by the gradient too (an addition of this
            package; accuracy is lower with it at high sparsity, see docs/accuracy.md). The dense gradient of the update's step
            is held as a whole then, not streamed, and its ranks for a moment.
        drop_fraction, update_interval, t_end, schedule: see `DropAndGrow`.

    Raises:
        ValueError: an argument is out of range.
    """

    signals = ("gradient",)
    grow_by = "gradient"
    about = About(
        "[Evci et al. 2020](https://arxiv.org/abs/1911.11134)",
        grad_weight="d, and 1 once every update_interval",
        good_for="the usual choice: high accuracy at 80 to 98 % zeros, for one dense weight gradient at each update",
    )

    gradient_steps: int = 1
    unfired_first: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gradient_steps(self.gradient_steps, self.update_interval)

    def observed_steps(self) -> int:
        return self.gradient_steps
