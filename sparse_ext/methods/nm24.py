"""Training 2:4 with a dense master weight: the products take two of every four, and gradients reach all of them.

Weights, gradients and optimizer state stay dense; what is saved is FLOPs. As shares of the dense FLOPs, of the forward product,
the input gradient and the weight gradient:

    SRSTE           1/2   1     1, with mvue 1/2
    FST             1/2   1/2   1/2, without mvue 1; its dense tail 1 1 1
    SSTE            1/2   1     1/2, without mvue 1
    RigL, SET       1/2   1     1: these train 2:4 layers, too, without a master, at half of the memory
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Method


@dataclass(frozen=True)
class DenseMaster(Method):
    """What these methods share: every update chooses two of four anew, by magnitude. A layer needs room for every position."""

    def max_density(self, density: float) -> float:
        return 1.0


@dataclass(frozen=True)
class SRSTE(DenseMaster):
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

    def is_update(self, step: int, total_steps: int) -> bool:
        return True

    def pruning(self, step: int, total_steps: int) -> str:
        return "largest"

    def masked_decay(self) -> float:
        return self.decay

    def samples_gradient(self) -> bool:
        return self.mvue


@dataclass(frozen=True)
class FST(DenseMaster):
    """Fully sparse training (Hu et al. 2024, https://arxiv.org/abs/2404.01847): transposable tiles, then a dense tail.

    All three products are sparse. The report's flip rate tells whether the decay fits: in a run that learns it rises and then
    falls, and lies somewhat below that of a dense run; without decay it stays high. The switch to the dense tail changes which
    kernels run: compiled code is compiled anew by itself, a captured CUDA graph has to be captured anew.

    Args:
        decay: lambda_W, masked decay on gradients.
        refresh_interval: steps between two choices of the tiles.
        dense_tail: share of the run, at its end, that trains all weights densely.
        mvue: the weight gradient from an unbiased 2:4 sample of the output gradient (Chmiel et al. 2022,
            https://arxiv.org/abs/2203.10991).
    """

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

    def last_sparse_step(self, total_steps: int) -> int:
        """The steps behind this one are dense."""
        return total_steps - round(self.dense_tail * total_steps)

    def is_update(self, step: int, total_steps: int) -> bool:
        last = self.last_sparse_step(total_steps)
        return (step < last and step % self.refresh_interval == 0) or (step == last < total_steps)

    def pruning(self, step: int, total_steps: int) -> str:
        last = self.last_sparse_step(total_steps)
        return "dense" if last < total_steps and step >= last else "transposable"

    def masked_decay(self) -> float:
        return self.decay

    def samples_gradient(self) -> bool:
        return self.mvue


@dataclass(frozen=True)
class SSTE(DenseMaster):
    """Smooth straight-through estimator (Hu et al. 2024, https://arxiv.org/abs/2409.09099): a soft threshold, continuous in W.

    Of every four neighbours of a row the two largest remain, moved towards 0 by the third largest magnitude and
    scaled by a factor that is chosen at the start and then stays.

    Args:
        mvue: the weight gradient from an unbiased 2:4 sample of the output gradient.
    """

    mvue: bool = True

    def is_update(self, step: int, total_steps: int) -> bool:
        return True

    def pruning(self, step: int, total_steps: int) -> str:
        return "soft"

    def samples_gradient(self) -> bool:
        return self.mvue


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < float("inf"):
        raise ValueError(f"expected a finite decay of at least 0, got {decay}")
