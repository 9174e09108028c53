"""The calibrated tasks, as data: a row here is a section of the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from examples.chars import Chars
from examples.digits import Digits
from examples.digits_cnn import DigitsCNN
from examples.digits_gcn import DigitsGCN
from examples.example import Example

# Shares of the dense run's FLOPs, or of its seconds, that dense runs get: other methods are compared at their own share.
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.78, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class PlainChars(Chars):
    """The example's task as it was calibrated: embeddings, AdamW and the cycle as PyTorch has them by default.

    Embeddings of variance 1 make it harder for sparse blocks than the example's small ones do, and tell methods apart.
    """

    def model(self, width: float = 1.0) -> nn.Module:
        model: Any = super().model(width)
        nn.init.normal_(model.embedding.weight)
        return model

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=self.lr if lr is None else lr)

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], steps)


@dataclass(frozen=True)
class Calibrated:
    """A task and what is run on it.

    Attributes:
        about: of the reader of the report.
        sparsities: of methods that have none of their own.
        inits: {how sparse layers begin: seeds}; the first is what the bars are for.
        budgets: of the dense runs; 1.0 is among them.
        equal_flops: the training FLOPs, relative to dense, with which the second table compares schedules; None: not here.
        remark: what its scores do not say by themselves, such as why a bar fails.
    """

    task: Example
    about: str
    sparsities: tuple[float, ...]
    inits: dict[str, int]
    budgets: tuple[float, ...] = BUDGETS
    equal_flops: float | None = None
    remark: str = ""

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def unit(self) -> str:
        """Of the metric."""
        return self.task.metric


_ROWS = (
    Calibrated(
        replace(Digits(), width=256, steps=680, lr=0.1, batch=64, whole_epochs=True, init="masked"),
        "1 797 handwritten digits of 8 x 8 pixels, 60 % of them for training; 64 - 256 - 256 - 10 with ReLU; SGD 0.1 with "
        "momentum 0.9 and weight decay 5e-4, cosine, 40 epochs of batches of 64.",
        sparsities=(0.8, 0.9, 0.95, 0.98),
        inits={"masked": 5, "variance": 3},
        equal_flops=0.2,
    ),
    Calibrated(
        DigitsCNN(),
        "The same digits; three convolutions of 3 x 3 to 32, 64 and 64 channels with BatchNorm, mean over all pixels, a linear "
        "layer; the same optimizer, 20 epochs.",
        sparsities=(0.8, 0.9, 0.95, 0.98),
        inits={"masked": 3},
        budgets=(0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.78, 1.0, 2.0),
    ),
    Calibrated(
        DigitsGCN(),
        "The same digits as a graph of 10 nearest neighbours, of which 10 labels of each class are known; graph convolutions "
        "64 - 256 - 256 - 10; AdamW 0.01, cosine, 150 steps. The adjacency is a fixed sparse matrix, multiplied by `spmm`.",
        sparsities=(0.8, 0.9, 0.95, 0.98),
        inits={"masked": 3},
        budgets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.78, 1.0, 2.0),
    ),
    Calibrated(
        PlainChars(steps=1000, update_interval=25, gradient_steps=1),
        "The source text of Python's standard library by characters; two pre-norm transformer blocks, width 128, 4 heads, "
        "context 64, batch 32; AdamW 0.002, one cycle, 1 000 steps. The blocks' matrices are sparse.",
        sparsities=(0.8, 0.95),
        inits={"masked": 3},
        budgets=(0.1, 0.2, 0.35, 0.5, 0.78, 1.0),
        equal_flops=0.5,
        remark="On RigL's bars, which are about its lead over static: SET, which needs no gradient, is ahead of both with "
        "every seed. With masks on dense weights in plain PyTorch, without this package, RigL's lead differed from "
        "this one by less than seeds do (first seed, both sparsities). Other choices were tried once, at 95 %, first "
        "seed: gradients summed over 8 steps came nearest to the bar, updates that replace the optimizer step, as in "
        "the paper, reached less, and new weights with their layer's median second moment fell behind static. The "
        "bars come from one seed of a model that is not known in full: its dense score was better than this one's.",
    ),
)
TASKS: dict[str, Calibrated] = {row.name: row for row in _ROWS}


def quick(row: Calibrated) -> Calibrated:
    """So short that it shows nothing but that all works."""
    size: dict[str, Any] = {"batch": 8, "width": 32} if isinstance(row.task, Chars) else {}
    task = replace(row.task, steps=24, update_interval=4, **size)
    return replace(row, task=task, sparsities=row.sparsities[:1], inits={next(iter(row.inits)): 1}, budgets=(0.5, 1.0))
