"""The layout "2:4": two of every four neighbours of a row, which tensor cores multiply at up to twice the dense rate.

What is sparse of the three products: the forward one always, but for a "dense" master. The input gradient where tiles are
transposable; otherwise it is dense, with W unpacked. The weight gradient where the pattern has a `draw`, by an unbiased sample
of the output gradient; otherwise it is dense, and a packed weight takes its part of it. Where a dense product was measured to
be faster, with few tokens (`crossover`), the weight is unpacked.
"""

from __future__ import annotations

import torch

from . import kernels as nm24
from . import training as nm24_training
from ..auto import dense_is_faster
from .pattern import Nm24Pattern, packed
from ..pattern import Pattern


class Nm24:
    """weight is 1-D, packed [rows * 2 * ceil(cols / 4)] or a dense master [rows * cols], see `Nm24Pattern`."""

    name = "2:4"
    pattern: type[Pattern] = Nm24Pattern

    @staticmethod
    def pack(dense: torch.Tensor, pattern: Nm24Pattern) -> torch.Tensor:
        if dense.shape != (pattern.rows, pattern.cols):
            raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")
        if pattern.master:
            return dense.reshape(-1)
        (values,) = nm24.nm24_pack.call(dense, pattern.codes, False, dense.dtype)
        return values.view(-1)

    @staticmethod
    def unpack(weight: torch.Tensor, pattern: Nm24Pattern) -> torch.Tensor:
        dense = _effective(weight, pattern, weight.dtype)
        return dense.clone() if pattern.choice == "dense" else dense

    @staticmethod
    def matmul(
        weight: torch.Tensor, pattern: Nm24Pattern, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
    ) -> torch.Tensor:
        _check(weight, pattern, x)
        if pattern.choice == "dense" or _dense_is_faster("nm24 matmul", pattern, x):
            y = torch.nn.functional.linear(x, _effective(weight, pattern, x.dtype), bias)
            return y.relu_() if relu else y
        values, ids = packed(weight, pattern, x.dtype)
        return nm24.nm24_gemm.call(values, ids, x, bias, relu)

    @staticmethod
    def matmul_t(weight: torch.Tensor, pattern: Nm24Pattern, dy: torch.Tensor) -> torch.Tensor:
        sparse = pattern.master and pattern.choice == "transposable"
        if not sparse or _dense_is_faster("nm24 matmul_t", pattern, dy):
            return dy @ _effective(weight, pattern, dy.dtype)
        dense = weight.view(pattern.rows, pattern.cols)
        _, values_t, ids_t = nm24.nm24_pack.call(dense, pattern.codes, True, dy.dtype)
        return nm24.nm24_gemm.call(values_t, ids_t, dy, None)

    @staticmethod
    def grad_weight(pattern: Nm24Pattern, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if pattern.draw is None or pattern.choice == "dense":
            dense = dy.t() @ x
        else:
            values_t, ids_t = nm24_training.nm24_mvue.call(dy, pattern.draw)
            dense = nm24.nm24_gemm.call(values_t, ids_t, x.t().contiguous(), None).t().contiguous()
        return Nm24.pack(dense, pattern)


def _check(weight: torch.Tensor, pattern: Nm24Pattern, x: torch.Tensor) -> None:
    """ValueError / TypeError where the three do not belong together; the operators know neither cols nor the master."""
    if x.shape[1] != pattern.cols:
        raise ValueError(
            f"nm24_linear: expected x with {pattern.cols} columns (weight has {pattern.cols} input features), "
            f"got shape {tuple(x.shape)}"
        )
    if weight.shape != (pattern.capacity,):
        raise ValueError(f"nm24_linear: expected weight of shape ({pattern.capacity},), got {tuple(weight.shape)}")
    cast = pattern.master and weight.dtype is torch.float32 and x.dtype.itemsize == 2
    if weight.dtype is not x.dtype and not cast:
        raise TypeError(f"nm24_linear: expected x of dtype {weight.dtype} (as the weight), got {x.dtype}")


def _dense_is_faster(product: str, pattern: Nm24Pattern, tokens: torch.Tensor) -> bool:
    return dense_is_faster(product, tokens, pattern.rows, pattern.cols, pattern.rows * pattern.cols // 2)


def _effective(weight: torch.Tensor, pattern: Nm24Pattern, dtype: torch.dtype) -> torch.Tensor:
    """What products multiply by, dense [rows, cols]."""
    if pattern.choice == "dense":
        return weight.view(pattern.rows, pattern.cols).to(dtype)
    values, ids = packed(weight, pattern, dtype)
    return nm24.nm24_unpack.call(values, ids, pattern.cols)
