"""Sparse momentum (Dettmers & Zettlemoyer 2019, arXiv:1907.04840) in RigL's frame: growth by a running mean of the gradient."""

from dataclasses import dataclass

from sparse_ext import methods, register_method, train


class RunningMean(train.Signal):
    name = "running mean"

    def start(self):
        self.mean = self.zeros()

    def observe(self, tile, rows):
        self.mean[rows.start : rows.stop].lerp_(tile, 1 - self.method.momentum)

    def score(self):
        return self.mean


@register_method("sparse-momentum")
@dataclass(frozen=True)
class SparseMomentum(methods.DropAndGrow):
    signals = (RunningMean,)
    grow_by = "running mean"
    momentum: float = 0.9

    def observed_steps(self):
        return self.update_interval
