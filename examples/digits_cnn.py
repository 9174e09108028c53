"""Task (c): the digits by a small convolutional network with BatchNorm. `python -m examples.digits_cnn --seeds 3`"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from .arms import Table, dense, rigl, sparse
from .digits import Digits
from .example import Example

FEW = 0.98  # zeros, of the last two arms


@dataclass(frozen=True)
class DigitsCNN(Digits):
    """Three convolutions of 3 x 3 pixels, each with BatchNorm and ReLU; the mean over all pixels; a linear layer.

    Sparse layers begin with the dense layers' own values: BatchNorm makes up for their scale.
    """

    name: str = "digits-cnn"
    sparsity: float = 0.9
    steps: int = 340  # 20 epochs
    seeds: int = 3
    lr: float = 0.1
    init: str = "masked"
    batch: int = 64
    whole_epochs: bool = True
    channels: tuple[int, ...] = (1, 32, 64, 64)

    def model(self, width: float = 1.0) -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        channels = [self.channels[0], *(max(1, round(width * count)) for count in self.channels[1:])]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


def cnn_arms(task: Example) -> list[Table]:
    """Dense; three methods at the task's sparsity; at a higher one the two that show what growth by gradient gives."""
    usual, few = f"{task.sparsity:.0%}", f"{FEW:.0%}"
    return [
        dense(),
        sparse(task, f"static, {usual}", "static"),
        sparse(task, f"SET, {usual}", "set", {"update_interval": task.update_interval}),
        rigl(task, f"RigL, {usual}"),
        sparse(task, f"static, {few}", "static", sparsity=FEW),
        rigl(task, f"RigL, {few}", sparsity=FEW),
    ]


if __name__ == "__main__":
    from .demo import main

    main(["--task", DigitsCNN.name, "--full", *sys.argv[1:]])
