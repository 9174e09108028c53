"""Training 2:4 with a dense weight: products take two of every four, and gradients reach all of them (straight-through).

Weights, gradients and optimizer state stay dense; what is saved is FLOPs. As shares of the dense FLOPs, of the forward product,
the input gradient and the weight gradient:

    SRSTE           1/2   1     1, with mvue 1/2
    FST             1/2   1/2   1/2, without mvue 1; its dense tail 1 1 1
    SSTE            1/2   1     1/2, without mvue 1
    RigL, SET       1/2   1     1: these train 2:4 layers, too, with a packed weight, at half of the memory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .base import Action, Choose, LayerNumbers, Method, Switch, Time


@dataclass(frozen=True)
class DenseWeight(Method):
    """What these methods share: at every update products choose their part of the weight anew, by the same rule."""

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

    The two largest magnitudes of every four neighbours of a row, chosen after every step.

    Args:
        decay: lambda_W, what pulls the weights that are left out towards 0.
        mvue: sample the output gradient for a sparse weight gradient, as in FST.
    """

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
    """Fully sparse training (Hu et al. 2024, https://arxiv.org/abs/2404.01847): transposable tiles, then a dense tail.

    All three products are sparse. The report's flip rate tells whether the decay fits: in a run that learns it rises and then
    falls, and lies somewhat below that of a dense run; without decay it stays high. The dense tail switches the layout:
    compiled code is compiled anew by itself, a captured CUDA graph has to be captured anew.

    Args:
        decay: lambda_W, masked decay on gradients.
        refresh_interval: steps between two choices of the tiles.
        dense_tail: share of the run, at its end, that trains all weights densely.
        mvue: the weight gradient from an unbiased 2:4 sample of the output gradient (Chmiel et al. 2022,
            https://arxiv.org/abs/2203.10991).
    """

    rule = "transposable"

    decay: float = 6e-5
    refresh_interval: int = 40
    dense_tail: float = 1 / 6
    mvue: bool = True

    def __post_init__(self) -> None:
        _check_decay(self.decay)
        if self.refresh_interval < 1 or self.refresh_interval != int(self.refresh_interval):
            raise ValueError(f"expected a whole refresh_interval of at least 1, got {self.refresh_interval}")
        if not 0.0 <= self.dense_tail <= 1.0:
            raise ValueError(f"expected dense_tail in [0, 1], got {self.dense_tail}")

    @property
    def masked_decay(self) -> float:
        return self.decay

    @property
    def samples_gradient(self) -> bool:
        return self.mvue

    def last_sparse_step(self, total_steps: int) -> int:
        """The steps behind this one are dense."""
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

    Of every four neighbours of a row the two largest remain, moved towards 0 by the third largest magnitude and
    scaled by a factor that is chosen at the start and then stays.

    Args:
        mvue: the weight gradient from an unbiased 2:4 sample of the output gradient.
    """

    rule = "soft"

    mvue: bool = True

    @property
    def samples_gradient(self) -> bool:
        return self.mvue


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < float("inf"):
        raise ValueError(f"expected a finite decay of at least 0, got {decay}")
