"""What is measured, as data: shapes, sparsities and contenders. A row here is a row in every table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import sparse_ext as sx


@dataclass(frozen=True)
class Shape:
    """One layer on one batch: [tokens, in_features] -> [tokens, out_features]."""

    in_features: int
    out_features: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.tokens} tokens"


SUITES: dict[str, tuple[Shape, ...]] = {
    "layer": (Shape(1024, 1024, 256), Shape(1024, 4096, 1024)),
    "smoke": (Shape(96, 64, 40),),
}
SPARSITIES = (0.8, 0.9, 0.95, 0.98)


def _sparse_ext(shape: Shape, sparsity: float, dtype: torch.dtype, device: str) -> nn.Module:
    return sx.SparseLinear(shape.in_features, shape.out_features, sparsity=sparsity, dtype=dtype, device=device)


def _dense(shape: Shape, sparsity: float, dtype: torch.dtype, device: str) -> nn.Module:
    return nn.Linear(shape.in_features, shape.out_features, dtype=dtype, device=device)


def _sparselab(shape: Shape, sparsity: float, dtype: torch.dtype, device: str) -> nn.Module | None:
    """SparseLab (PyPI), float32 on the CPU only; None where it is not installed."""
    try:
        import sparselab
        from sparselab import ops
    except ImportError:
        return None
    if dtype != torch.float32 or device != "cpu":
        return None
    ops._transpose_cache.clear()  # 0.2.2 keys it by id(): a new layer may meet the entry of one that is gone, and fail
    return sparselab.SparseLinear(shape.in_features, shape.out_features, sparsity=sparsity)


class _TorchCsr(nn.Module):
    """PyTorch's own CSR tensor as the weight: forward and backward as autograd gives them."""

    def __init__(self, shape: Shape, sparsity: float, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        twin = sx.SparseLinear(shape.in_features, shape.out_features, sparsity=sparsity, dtype=dtype, device=device)
        self.weight = nn.Parameter(twin.dense_weight().to_sparse_csr())
        self.bias = nn.Parameter(twin.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight @ x.t()).t() + self.bias


Contender = Callable[[Shape, float, torch.dtype, str], "nn.Module | None"]
# The first is the baseline of every ratio.
CONTENDERS: dict[str, Contender] = {
    "dense": _dense,
    "sparse_ext": _sparse_ext,
    "sparselab": _sparselab,
    "torch.sparse": _TorchCsr,
}
