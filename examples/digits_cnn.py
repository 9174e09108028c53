"""Task (c): the digits by a small convolutional network with BatchNorm. `python -m examples.digits_cnn --seeds 3`"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

import sparse_ext as sx

from .arms import Arm, Task
from .digits import Digits

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
    short_lr: float = 0.1
    init: str = "masked"
    batch: int = 64
    whole_epochs: bool = True
    channels: tuple[int, ...] = (1, 32, 64, 64)

    def model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        for before, after in zip(self.channels, self.channels[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], 10))


def cnn_arms(task: Task) -> list[Arm]:
    """Dense; three methods at the task's sparsity; at a higher one the two that show what growth by gradient gives."""
    static, set_, rigl = ("static", sx.Static()), ("SET", sx.SET(update_interval=task.update_interval)), ("RigL", task.rigl)
    sparse = [(task.sparsity, static), (task.sparsity, set_), (task.sparsity, rigl), (FEW, static), (FEW, rigl)]
    return [
        Arm("dense", None, task.steps, task.lr),
        *(Arm(f"{name}, {zeros:.0%}", method, task.steps, task.lr, sparsity=zeros) for zeros, (name, method) in sparse),
    ]


if __name__ == "__main__":
    from .demo import main

    main(["--task", DigitsCNN.name, "--full", *sys.argv[1:]])
