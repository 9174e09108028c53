"""The products as plain functions, for people who build their own layers. Differentiable once, in x, weight and bias."""

from __future__ import annotations

from typing import Literal

import torch

from .ops import LAYOUTS, CsrPattern, Layout, LinearFunction, Nm24Pattern, Pattern, SampledFunction, layout_named
from .ops.regrow import regrow

__all__ = ["csr_linear", "nm24_linear", "regrow", "sddmm", "spmm"]


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As autocast treats the operands of `linear`: float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def csr_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Pattern,
    layout: str = "csr",
    activation: Literal["relu"] | None = None,
) -> torch.Tensor:
    """y [..., rows] = x [..., cols] W^T + bias for the sparse matrix (weight [capacity], pattern).

    As `torch.nn.functional.linear`: any number of leading dimensions, any strides, zero tokens. With activation "relu" the
    kernel that makes y applies it: y is written once and not read again.

    Raises:
        ValueError: x's last dimension is not `pattern.cols`, devices differ, or there is no such layout or activation.
        TypeError: dtypes differ.
    """
    return sparse_linear(layout_named(layout), x, weight, bias, pattern, activation)


def nm24_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Nm24Pattern,
    activation: Literal["relu"] | None = None,
) -> torch.Tensor:
    """`csr_linear` for a 2:4 matrix: weight is packed [rows * 2 * ceil(cols / 4)] or a dense master [rows * cols].

    Of a master products take what the pattern says, and its gradient reaches every position (straight-through). A float32
    master multiplies 16-bit tokens. `ops.Nm24Pattern.from_mask(mask, weight.numel())` makes a pattern.

    Raises:
        ValueError, TypeError: as csr_linear; CUDA's kernels take bfloat16 and float16 tokens.
    """
    return sparse_linear(LAYOUTS["2:4"], x, weight, bias, pattern, activation)


def sparse_linear(
    layout: type[Layout],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Pattern,
    activation: str | None = None,
) -> torch.Tensor:
    """`csr_linear` or `nm24_linear`, whichever is the layout's."""
    op = layout.pattern.PRODUCT
    on_cpu = x.is_cpu
    if on_cpu is not weight.is_cpu or not (on_cpu or x.device == weight.device):
        raise ValueError(f"{op}: expected x on {weight.device} (as the weight), got {x.device}")
    device_type = "cpu" if on_cpu else x.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        x = _cast(x, dtype)
        weight = weight if pattern.master else _cast(weight, dtype)  # of a master the products take what they need
        bias = None if bias is None else _cast(bias, dtype)  # or it would promote the output again
    lead = None
    if x.dim() != 2:
        if x.dim() == 0 or x.shape[-1] != pattern.cols:
            raise ValueError(
                f"{op}: expected x with {pattern.cols} columns (weight has {pattern.cols} input features), "
                f"got shape {tuple(x.shape)}"
            )
        lead = x.shape[:-1]
        x = x.reshape(lead.numel(), pattern.cols)
    if activation not in (None, "relu"):
        raise ValueError(f"{op}: expected activation 'relu' or None, got {activation!r}")
    relu = activation is not None
    if torch.is_grad_enabled():
        y = LinearFunction.apply(layout, x, weight, bias, relu, pattern.traits, pattern.draw, *pattern.derived)
    else:
        y = layout.matmul(weight, pattern, x, bias, relu)
    return y if lead is None else y.view(*lead, pattern.rows)


def spmm(weight: torch.Tensor, pattern: CsrPattern, x: torch.Tensor) -> torch.Tensor:
    """Y [rows, k] = W X for sparse W [rows, cols] and dense X [cols, k]: a graph's adjacency times its node features."""
    return csr_linear(x.t(), weight, None, pattern).t()


def sddmm(pattern: CsrPattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """values [capacity] = (A B) at the pattern, 0 behind it, for dense A [rows, k] and B [k, cols]."""
    return SampledFunction.apply(a.t(), b, pattern.traits, *pattern.derived)
