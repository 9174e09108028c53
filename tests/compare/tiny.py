"""A task of a few milliseconds, meters that count nothing or as they are told, and short comparisons of them."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import nn

from sparse_ext.compare import Task, compare
from sparse_ext.report.run import Seconds


class Squares(Task):
    """Means of squares, by a network of two hidden layers with dropout."""

    metric, higher_is_better = "mean squared error", False

    def __init__(self, dropout=0.1, lr=1e-2):
        self.dropout, self.lr = dropout, lr

    def model(self, width=1.0):
        wide = max(4, int(32 * width) // 4 * 4)
        layers = [nn.Linear(16, wide), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(wide, wide), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(wide, 1))

    def optimizer(self, model, lr=None):
        return torch.optim.Adam(model.parameters(), lr=lr or self.lr)

    def scheduler(self, optimizer, steps):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def batches(self, seed):
        numbers = torch.Generator().manual_seed(seed)
        while True:
            x = torch.randn(8, 16, generator=numbers)
            yield x, x.square().mean(1, keepdim=True)

    def test_batches(self, seed):
        return [next(self.batches(1000 + seed))]

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]).float(), batch[1])

    def score(self, model, batches):
        return sum(self.loss(model, batch).item() for batch in batches)


class FakeMeter:
    """A window uses `joules` in two seconds; None: there is no counter."""

    def __init__(self, joules=None, warning=None):
        self.joules, self.warning, self.windows, self._open = joules, warning, [], None
        self.why = "this machine has no counter" if joules is None else None
        about = {"source": "fake counter", "scope": "GPU", "resolution_j": 0.001, "period_s": 0.1, "estimated": False}
        self.sensor = None if joules is None else SimpleNamespace(**about)

    def begin_window(self, name):
        assert self._open is None
        self._open = name

    def end_window(self, name):
        assert self._open == name
        self._open = None
        self.windows.append(name)
        watts = self.joules and self.joules / 2.0
        figures = {"joules": self.joules, "seconds": 2.0, "mean_w": watts, "estimated": False}
        return SimpleNamespace(**figures, why=self.why, warning=self.warning)

    def temperature_c(self):
        return None if self.joules is None else 40.0 + len(self.windows)


DENSE = {"name": "dense", "kind": "dense"}
RIGL = {"name": "RigL", "kind": "sparse", "sparsity": 0.8, "choices": {"update_interval": 4}}


def config(*arms, **changes):
    """Of a trial of one repeat; by default dense beside RigL."""
    return {
        "title": "Squares", "task": "tiny:Squares", "steps": 24, "tolerance": 0.1, "trial": True, "repeats": 1, "idle_s": 0,
        "turns": 6, "evaluations": 3, "warm_up_steps": 2, "layers_s": 0, "threads": 1, "arm": [DENSE, *(arms or [RIGL])],
        **changes,
    }  # fmt: skip


def compared(folder, *arms, meter=None, watch=None, **changes):
    """The record of a comparison of these arms."""
    return compare(config(*arms, **changes), folder=folder, meter=meter or FakeMeter(), watch=watch)


def timeless(record):
    """{arm: its runs}, without what depends on how fast the machine was."""
    return {arm.name: [_timeless(run) for run in arm.runs] for arm in record.arms}


def _timeless(run):
    curve = tuple(replace(point, seconds_s=0.0) for point in run.curve)
    return replace(run, seconds=Seconds(0.0, 0.0, 0.0, 0.0), hardware_days=0.0, curve=curve, memory=None)
