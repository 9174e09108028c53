"""The products as plain functions, for people who build their own layers. Differentiable once, in x, weight and bias."""

from __future__ import annotations

from typing import Literal

import torch

from .ops import CsrPattern, Linear, Nm24Pattern, Pattern, Rule, layout_named, multiply, operands_of, sampled
from .ops.regrow.kernels import regrow

__all__ = ["csr_linear", "nm24_linear", "regrow", "sddmm", "spmm"]


def csr_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: CsrPattern,
    layout: str = "csr",
    activation: Literal["relu"] | None = None,
) -> torch.Tensor:
    """y [..., rows] = x [..., cols] W^T + bias for the sparse matrix (weight [capacity], pattern).

    As `torch.nn.functional.linear`: any number of leading dimensions, any strides, zero tokens. What the kernels read of a
    pattern is made at its first use and kept with it.

    Args:
        layout: "csr" or "auto".
        activation: "relu" is applied by the kernel that makes y: y is written once and not read again.

    Raises:
        ValueError: x's last dimension is not `pattern.cols`, devices differ, or there is no such layout or activation.
        TypeError: dtypes differ.
    """
    return _linear(layout, x, weight, bias, pattern, None, activation)


def nm24_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Nm24Pattern,
    activation: Literal["relu"] | None = None,
    rule: Rule | None = None,
) -> torch.Tensor:
    """`csr_linear` for a 2:4 matrix: weight is packed [rows * 2 * ceil(cols / 4)] or dense [rows * cols].

    Of a dense weight the product takes what the pattern and the rule say (None: `Rule("largest")`, the values at the pattern as
    they are), and its gradient reaches every position (straight-through). A float32 dense weight multiplies 16-bit tokens.
    `ops.Nm24Pattern.from_mask(mask)` makes a pattern.

    Raises:
        ValueError, TypeError: as csr_linear; CUDA's kernels take bfloat16 and float16 tokens.
    """
    if rule is None and weight.numel() == pattern.rows * pattern.cols:
        rule = Rule("largest")
    return _linear("2:4", x, weight, bias, pattern, rule, activation)


def _linear(
    layout: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Pattern,
    rule: Rule | None,
    activation: str | None,
) -> torch.Tensor:
    kind = layout_named(layout)
    operands = operands_of(kind, pattern)
    return multiply(kind, Linear(pattern.rows, pattern.cols), x, weight, bias, operands, rule, activation=activation)


def spmm(weight: torch.Tensor, pattern: CsrPattern, x: torch.Tensor) -> torch.Tensor:
    """Y [rows, k] = W X for sparse W [rows, cols] and dense X [cols, k]: a graph's adjacency times its node features."""
    return csr_linear(x.t(), weight, None, pattern).t()


def sddmm(pattern: CsrPattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """values [capacity] = (A B) at the pattern, 0 behind it, for dense A [rows, k] and B [k, cols]."""
    return sampled(pattern, a.t(), b)
