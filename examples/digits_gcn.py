"""Task (d): the digits as nodes of a graph, by a graph network; ten labels of each class are known.

`python -m examples.digits_gcn --seeds 3`. Two kinds of sparse matrix in one model: the graph's adjacency, which is fixed, and
the layers' weights, which are trained. The layers are plain `nn.Linear`, so `sparsify_` replaces them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import nn

from sparse_ext.functional import spmm
from sparse_ext.ops import CsrPattern

from .arms import Table, dense, rigl, sparse
from .digits import Digits, all_digits
from .example import Batch, Example

HIDDEN = -100  # a label that cross_entropy ignores


@cache
def neighbours(k: int) -> tuple[torch.Tensor, CsrPattern]:
    """D^-1/2 (A + I) D^-1/2 of the graph in which each digit is linked with its k nearest, as values and their positions."""
    x, _ = all_digits()
    linked = torch.zeros(len(x), len(x), dtype=torch.bool)
    linked.scatter_(1, torch.cdist(x, x).topk(k + 1, largest=False).indices, True)  # the nearest of all is the digit itself
    linked = linked | linked.t()
    scale = linked.sum(1, dtype=torch.float32).rsqrt()
    return (scale[:, None] * scale)[linked], CsrPattern.from_mask(linked)


class GCN(nn.Module):
    """Features [nodes, in] to logits [nodes, out] by graph convolutions (Kipf & Welling 2017, https://arxiv.org/abs/1609.02907).

    The weight and the pattern are those of the adjacency matrix.
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, pattern: CsrPattern, *widths: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.pattern = pattern
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = spmm(self.weight, self.pattern, layer(x)).relu()
        return spmm(self.weight, self.pattern, last(x))


@dataclass(frozen=True)
class DigitsGCN(Digits):
    """64 - width - width - 10 on the graph of 10 nearest neighbours; accuracy on the digits whose label is not known.

    The seed chooses the labels. Easy: it shows that sparse weights do as well as dense ones, not which method is best.
    """

    name: str = "digits-gcn"
    sparsity: float = 0.9
    steps: int = 150
    seeds: int = 3
    lr: float = 0.01
    nm24_lr: float = 0.01
    update_interval: int = 10
    init: str = "masked"
    width: int = 256
    neighbours: int = 10
    labels: int = 10  # of each class

    def model(self, width: float = 1.0) -> nn.Module:
        wide = max(1, round(width * self.width))
        return GCN(*neighbours(self.neighbours), 64, wide, wide, 10)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=self.lr if lr is None else lr)

    def split(self, seed: int) -> tuple[Batch, Batch]:
        """All digits twice: with the known labels only, and with the others."""
        x, y = all_digits()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        chosen = [order[y[order] == digit][: self.labels] for digit in range(10)]
        known = torch.zeros(len(y), dtype=torch.bool).index_fill_(0, torch.cat(chosen), True)
        return (x, y.where(known, HIDDEN)), (x, y.where(~known, HIDDEN))

    def batches(self, seed: int) -> Iterator[Batch]:
        train, _ = self.split(seed)
        while True:
            yield train

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> float:
        ((x, y),) = batches
        return 100 * (model(x).argmax(1) == y)[y != HIDDEN].float().mean().item()


def gcn_arms(task: Example) -> list[Table]:
    """Dense, and three methods."""
    interval = {"update_interval": task.update_interval}
    return [dense(), sparse(task, "static", "static"), sparse(task, "SET", "set", interval), rigl(task)]


if __name__ == "__main__":
    from .demo import main

    main(["--task", DigitsGCN.name, "--full", *sys.argv[1:]])
