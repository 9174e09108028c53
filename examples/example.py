"""`Example`: a task of the demo and of `make accuracy`, with the settings that its arms have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sparse_ext.compare import Task

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Example(Task):
    """Data, model and hyper-parameters; frozen, so `dataclasses.replace` makes a shorter one.

    Attributes:
        tolerance: by how much a score may be worse and still be called equal.
        steps, seeds: of a comparison: so long, and so often.
        lr: learning rate. nm24_lr: of all arms where 2:4 is trained: sampled gradients are noisier, and do not stand the
            largest steps. low_rank_lr: of layers of low rank, which do not always stand them either; None: lr.
        update_interval, gradient_steps: RigL's. init: of the sparse layers. exclude: layers that stay dense.
    """

    name: str
    metric: str
    higher_is_better: bool
    tolerance: float
    sparsity: float
    steps: int
    seeds: int
    lr: float
    nm24_lr: float
    update_interval: int
    low_rank_lr: float | None = None
    gradient_steps: int = 1
    init: str = "variance"
    exclude: tuple[str, ...] = ()

    @abstractmethod
    def model(self, width: float = 1.0) -> nn.Module: ...

    @abstractmethod
    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer: ...

    @abstractmethod
    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler: ...

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]: ...

    @abstractmethod
    def test_batches(self, seed: int) -> list[Batch]: ...

    def test_loss(self, model: nn.Module, batches: Iterable[Batch]) -> float:
        """The mean loss on test batches."""
        losses = [self.loss(model, batch).item() for batch in batches]
        return sum(losses) / len(losses)
