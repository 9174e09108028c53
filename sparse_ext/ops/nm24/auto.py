"""The products of layout "2:4" that may also be done densely: by `nm24_gemm`, or unpacked, as was measured to be faster.

Each operator chooses when it runs, where sizes are numbers: a compiled or exported program serves every number of tokens.
"""

from __future__ import annotations

import math

import torch

from ..auto import POLICY
from ..boundary.library import define
from . import kernels

# Products in the table of ops/auto.py.
FORWARD, GRAD_INPUT = "nm24 matmul", "nm24 matmul_t"


def _is_dense(product: str, tokens: torch.Tensor, rows: int, cols: int) -> bool:
    return POLICY.is_dense(product, tokens, rows, cols, rows * cols // 2)


def _stored(rows: int, cols: int) -> int:
    """How many values a 2:4 matrix of this shape has."""
    return math.prod(kernels.values_shape(rows, cols))


def _flops(product: str, tokens: torch.Tensor, rows: int, cols: int, stored: int) -> int:
    return 2 * tokens.shape[0] * (rows * cols if _is_dense(product, tokens, rows, cols) else stored)


@define(
    "auto_gemm(Tensor values, Tensor ids, Tensor x, Tensor? bias, bool relu=False) -> Tensor",
    flops=lambda values, ids, x, *_, **__: _flops(FORWARD, x, values.shape[0], x.shape[1], values.numel()),
)
def auto_gemm(
    values: torch.Tensor, ids: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
) -> torch.Tensor:
    """y [tokens, rows] = x W^T + bias, or torch.relu of that, as `nm24_gemm`."""
    rows, cols = kernels.check_matmul("auto_gemm", values, ids, x, bias)
    if not _is_dense(FORWARD, x, rows, cols):
        return kernels.multiply("auto_gemm", values, ids, x, bias, relu)
    y = torch.nn.functional.linear(x, kernels.nm24_unpack.kernel(values, ids, cols), bias)
    return y.relu_() if relu else y


@auto_gemm.fake
def _(values, ids, x, bias, relu=False):
    kernels.check_matmul("auto_gemm", values, ids, x, bias)
    return x.new_empty((x.shape[0], values.shape[0]))


@define(
    "auto_gemm_t(Tensor dense, Tensor ids, Tensor dy) -> Tensor",
    flops=lambda dense, ids, dy, **_: _flops(
        GRAD_INPUT, dy, dense.shape[0], dense.shape[1], _stored(dense.shape[1], dense.shape[0])
    ),
)
def auto_gemm_t(dense: torch.Tensor, ids: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """dx [tokens, cols] = dy W, where W is what `dense` [rows, cols] has at the ids of transposable tiles, in dy's dtype."""
    rows, cols = dense.shape
    if dy.dim() != 2 or dy.shape[1] != rows:
        raise ValueError(f"auto_gemm_t: expected dy [tokens, {rows}] (as dense has rows), got shape {tuple(dy.shape)}")
    if _is_dense(GRAD_INPUT, dy, rows, cols):
        (values,) = kernels.nm24_pack.kernel(dense, ids, False, dy.dtype)
        return dy @ kernels.nm24_unpack.kernel(values, ids, cols)
    _, values_t, ids_t = kernels.nm24_pack.kernel(dense, ids, True, dy.dtype)
    return kernels.multiply("auto_gemm_t", values_t, ids_t, dy, None, False)


@auto_gemm_t.fake
def _(dense, ids, dy):
    return dy.new_empty((dy.shape[0], dense.shape[1]))
