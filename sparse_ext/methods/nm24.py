"""2:4 training with a dense weight: products use two of every four weights, and gradients reach all (straight-through).

Weight, gradient and optimizer state stay dense, so these methods save FLOPs, not memory. RigL and SET train 2:4 layers too,
with a packed weight, at half of the memory. FLOPs as shares of a dense layer's:

                    forward   input gradient   weight gradient
    SRSTE           1/2       1                1 (with mvue 1/2)
    FST             1/2       1/2              1/2 (without mvue 1); in the dense tail all are 1
    SSTE            1/2       1                1/2 (without mvue 1)
    RigL, SET       1/2       1                1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .actions import Action, Choose, Switch
from .base import About, Method
from .checks import check_interval
from .numbers import LayerNumbers, Time


@dataclass(frozen=True)
class DenseWeight(Method):
    """What these methods share: every update prunes the dense weight again, by the class's `rule`."""

    dense_weight = True
    rule: ClassVar[str] = "largest"

    def is_update(self, time: Time) -> bool:
        return True

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        return dict.fromkeys(layers, Choose(self.rule))

    def max_density(self, density: float) -> float:
        return 1.0


@dataclass(frozen=True)
class SRSTE(DenseWeight):
    """Sparse-refined straight-through estimator (Zhou et al. 2021, https://arxiv.org/abs/2102.04010).

    Products use the two largest magnitudes of every four neighbours of a row, chosen again after every step.

    Args:
        decay: lambda_W: pulls the weights that products leave out towards 0. Finite, at least 0.
        mvue: estimate the weight gradient from a 2:4 sample of the output gradient, as FST does.

    Raises:
        ValueError: decay is out of range.
    """

    about = About(
        source="Zhou et al. 2021, https://arxiv.org/abs/2102.04010",
        forward="1/2",
        grad_input="1",
        grad_weight="1 (mvue: 1/2)",
        optimizer_memory="1",
        good_for="2:4 for inference: any weight can come back at any step",
    )

    decay: float = 2e-4
    mvue: bool = False

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    @property
    def masked_decay(self) -> float:
        return self.decay

    @property
    def samples_gradient(self) -> bool:
        return self.mvue


@dataclass(frozen=True)
class FST(DenseWeight):
    """Fully sparse training (Hu et al. 2024, https://arxiv.org/abs/2404.01847): transposable masks, then a dense tail.

    The masks are 2:4 in rows and columns, so all three products are sparse. The report's flip rate shows whether the decay
    fits: in a healthy run it rises, then falls, and stays somewhat below that of a dense run; without decay it stays high. The
    dense tail switches the layout: `torch.compile` recompiles by itself, but a CUDA graph must be captured again.

    Args:
        decay: lambda_W: pulls the weights that products leave out towards 0. Finite, at least 0.
        refresh_interval: steps between two updates of the masks, at least 1.
        dense_tail: the last share of the run, in [0, 1], which trains all weights densely.
        mvue: estimate the weight gradient from an unbiased 2:4 sample of the output gradient (Chmiel et al. 2022,
            https://arxiv.org/abs/2203.10991).

    Raises:
        ValueError: an argument is out of range.
    """

    rule = "transposable"
    about = About(
        source="Hu et al. 2024, https://arxiv.org/abs/2404.01847",
        forward="1/2",
        grad_input="1/2",
        grad_weight="1/2 (without mvue: 1)",
        optimizer_memory="1",
        good_for="pre-training on sparse tensor cores, for a dense model: the tail of the run is dense, and costs 1",
    )

    decay: float = 6e-5
    refresh_interval: int = 40
    dense_tail: float = 1 / 6
    mvue: bool = True

    def __post_init__(self) -> None:
        _check_decay(self.decay)
        check_interval("refresh_interval", self.refresh_interval)
        if not 0.0 <= self.dense_tail <= 1.0:
            raise ValueError(f"expected dense_tail in [0, 1], got {self.dense_tail}")

    @property
    def masked_decay(self) -> float:
        return self.decay

    @property
    def samples_gradient(self) -> bool:
        return self.mvue

    def last_sparse_step(self, total_steps: int) -> int:
        """The last step before the dense tail."""
        return total_steps - round(self.dense_tail * total_steps)

    def is_update(self, time: Time) -> bool:
        last = self.last_sparse_step(time.total_steps)
        return (time.step < last and time.step % self.refresh_interval == 0) or (time.step == last < time.total_steps)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if self.last_sparse_step(time.total_steps) <= min(time.step, time.total_steps - 1):
            return dict.fromkeys(layers, Switch("dense"))
        return super().plan(layers, time)


@dataclass(frozen=True)
class SSTE(DenseWeight):
    """Smooth straight-through estimator (Hu et al. 2024, https://arxiv.org/abs/2409.09099): a soft threshold, continuous in W.

    Of every four neighbours of a row the two largest magnitudes remain. They are moved towards 0 by the third largest, then
    multiplied by a scale that is fixed at the start.

    Args:
        mvue: estimate the weight gradient from an unbiased 2:4 sample of the output gradient, as FST does.
    """

    rule = "soft"
    about = About(
        source="Hu et al. 2024, https://arxiv.org/abs/2409.09099",
        forward="1/2",
        grad_input="1",
        grad_weight="1/2 (without mvue: 1)",
        optimizer_memory="1",
        good_for="2:4 for inference, without a decay to be tuned",
    )

    mvue: bool = True

    @property
    def samples_gradient(self) -> bool:
        return self.mvue


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < float("inf"):
        raise ValueError(f"expected a finite decay of at least 0, got {decay}")
