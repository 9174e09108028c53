"""A layer of every kind that `sparsify_` makes, for tests that run over all of them: its weight is a matrix [9, 12]."""

from typing import Any, NamedTuple

import torch
from torch import nn

import sparse_ext as sx


class Kind(NamedTuple):
    """How a sparse layer and its dense counterpart are made, and the shape of an input."""

    sparse: type[Any]
    dense: type[nn.Module]
    arguments: dict[str, int]
    x: tuple[int, ...]

    def made(self, **options: Any) -> Any:
        return self.sparse(**self.arguments, **options)

    def made_dense(self, **options: Any) -> nn.Module:
        return self.dense(**self.arguments, **options)

    def input(self) -> torch.Tensor:
        """Always the same."""
        return torch.randn(self.x, generator=torch.Generator().manual_seed(0))


_CONV = {"out_channels": 9, "padding": 1}
KINDS = {
    "linear": Kind(sx.SparseLinear, nn.Linear, {"in_features": 12, "out_features": 9}, (5, 12)),
    "conv1d": Kind(sx.SparseConv1d, nn.Conv1d, {"in_channels": 4, "kernel_size": 3, **_CONV}, (5, 4, 6)),
    "conv2d": Kind(sx.SparseConv2d, nn.Conv2d, {"in_channels": 3, "kernel_size": 2, **_CONV}, (5, 3, 4, 3)),
}
