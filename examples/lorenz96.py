"""A task for sparse networks: to learn the dynamics of many coupled variables without being told which are coupled.

Lorenz-96 (Lorenz 1996, "Predictability: a problem partly solved") is the usual small model of the atmosphere on a circle of
latitude: dx[i]/dt = (x[i+1] - x[i-2]) x[i-1] - x[i] + 8. Each variable feels three others. Here they come in a random order,
so that a network must find out which ones, and no convolution can help. The true map has full rank and is sparse: neither
a narrow network nor layers of low rank can hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sparse_ext.compare import Task

STEP = 0.025  # of the integration, in the model's time units
FORCING = 8.0  # chaotic
ORDER = 96  # seed of the variables' order
BETWEEN = 12  # steps between two states of a trajectory that are kept
SETTLE = 400  # steps until a trajectory has reached the attractor

Pairs = tuple[torch.Tensor, torch.Tensor]


def slope(x: torch.Tensor) -> torch.Tensor:
    """dx/dt of states [count, variables]."""
    return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + FORCING


def advanced(x: torch.Tensor, steps: int) -> torch.Tensor:
    """The states after so many steps of the fourth-order Runge-Kutta method."""
    for _ in range(steps):
        a = slope(x)
        b = slope(x + STEP / 2 * a)
        c = slope(x + STEP / 2 * b)
        d = slope(x + STEP * c)
        x = x + STEP / 6 * (a + 2 * b + 2 * c + d)
    return x


def pairs(variables: int, trajectories: int, states: int, lead: int, seed: int) -> Pairs:
    """States, and by how much they change in `lead` steps, each [trajectories * states, variables]."""
    numbers = torch.Generator().manual_seed(seed)
    x = advanced(FORCING + torch.randn(trajectories, variables, generator=numbers), SETTLE)
    found, changes = [], []
    for _ in range(states):
        x = advanced(x, BETWEEN)
        found.append(x)
        changes.append(advanced(x, lead) - x)
    order = torch.randperm(variables, generator=torch.Generator().manual_seed(ORDER))
    return torch.cat(found)[:, order], torch.cat(changes)[:, order]


@cache
def scaled(variables: int, lead: int) -> tuple[Pairs, Pairs]:
    """Pairs to train on and to test on, of other trajectories, in units of the former's standard deviations."""
    x, change = pairs(variables, 256, 150, lead, seed=0)
    test_x, test_change = pairs(variables, 64, 40, lead, seed=1)
    mean, deviation, size = x.mean(), x.std(), change.std()
    return ((x - mean) / deviation, change / size), ((test_x - mean) / deviation, test_change / size)


@dataclass(frozen=True)
class Lorenz96(Task):
    """From a state to its change in 0.1 time units, half a day of weather; two layers, whose hidden one is four times as wide.

    The metric is the mean squared error over the variance of the changes: 1 is what predicting their mean gives.
    """

    variables: int = 512
    batch: int = 256
    lead: int = 4
    lr: float = 0.004
    metric: str = "unexplained variance"
    higher_is_better: bool = False

    def model(self, width: float = 1.0) -> nn.Module:
        hidden = max(1, round(4 * self.variables * width))
        return nn.Sequential(nn.Linear(self.variables, hidden), nn.GELU(), nn.Linear(hidden, self.variables))

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=lr or self.lr, fused=True)

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], steps, pct_start=0.1)

    def batches(self, seed: int) -> Iterator[Pairs]:
        numbers = torch.Generator().manual_seed(seed)
        x, change = scaled(self.variables, self.lead)[0]
        while True:
            some = torch.randint(len(x), (self.batch,), generator=numbers)
            yield x[some], change[some]

    def test_batches(self, seed: int) -> list[Pairs]:
        return [scaled(self.variables, self.lead)[1]]

    def loss(self, model: nn.Module, batch: Pairs) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def score(self, model: nn.Module, batches: Iterable[Pairs]) -> float:
        return sum(self.loss(model, batch).item() for batch in batches)


def task(**changes: Any) -> Lorenz96:
    """For `task = "examples.lorenz96:task"` in a config; changes: of its fields."""
    return Lorenz96(**changes)
