"""The products as plain functions, for layers of your own. They have derivatives of every order; `regrow` has none."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import torch

from .ops import Conv2d, CsrPattern, Linear, Nm24Pattern, Pattern, Rule, layout_named, multiply, operands_of, sampled
from .ops.regrow.kernels import regrow

__all__ = ["csr_conv2d", "csr_linear", "nm24_linear", "regrow", "sddmm", "spmm"]


def csr_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: CsrPattern,
    layout: str = "csr",
    activation: Literal["relu"] | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.linear` with a sparse weight matrix: y = x W^T + bias.

    The pattern's operands (what the kernels read) are built at the first call and cached on the pattern.

    Args:
        x: [..., cols], any strides; it may be empty.
        weight: [capacity], the values of W in CSR order, of x's dtype. Slots behind the last entry are ignored.
        bias: [rows], of x's dtype, or None.
        pattern: the positions of the values in W [rows, cols].
        layout: "csr", or "auto", which multiplies densely where that was measured to be faster.
        activation: "relu" or None. The kernel applies it as it writes y, which saves a pass over y.

    Returns:
        y [..., rows], of x's dtype (under autocast: of autocast's).

    Raises:
        ValueError: x's last dimension is not `pattern.cols`, devices differ, or the layout or activation is unknown.
        TypeError: dtypes differ, or the device has no kernels for them.

    Example:
        pattern = CsrPattern.from_mask(torch.rand(64, 32) < 0.1)  # of sparse_ext.ops
        weight = torch.randn(pattern.capacity, requires_grad=True)
        y = csr_linear(torch.randn(8, 32), weight, None, pattern)  # [8, 64]
    """
    return _linear(layout, x, weight, bias, pattern, None, activation)


def csr_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: CsrPattern,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: Literal["relu"] | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.conv2d` with a sparse weight, whose zeros are skipped.

    The convolution is direct: no column matrix (im2col) is made. Sizes are a number, or a pair of height and width.

    Args:
        x: [batch, in_channels, height, width], or one image without batch; any strides.
        weight: [capacity], the values of W [out_channels, in_channels / groups, kernel_h, kernel_w] in CSR order, of x's dtype.
        bias: [out_channels], of x's dtype, or None.
        pattern: the positions of the values in W as a matrix [out_channels, in_channels / groups * kernel_h * kernel_w].
        kernel_size, stride, padding, dilation, groups: numbers or pairs of them, as of `torch.nn.Conv2d`; the padding is zeros.
        activation: "relu" or None, as in `csr_linear`.

    Returns:
        y [batch, out_channels, out_height, out_width], contiguous, of x's dtype (under autocast: of autocast's).

    Raises:
        ValueError: shapes or sizes do not fit, or devices differ.
        TypeError: dtypes differ, or the device has no kernels for them.

    Example:
        weight = torch.randn(64, 32, 3, 3) * (torch.rand(64, 32, 3, 3) < 0.1)
        pattern = CsrPattern.from_mask(weight.flatten(1) != 0)  # of sparse_ext.ops
        values = weight[weight != 0].requires_grad_()
        y = csr_conv2d(torch.randn(8, 32, 28, 28), values, None, pattern, 3, padding=1)  # [8, 64, 28, 28]
    """
    sizes = _pair("kernel_size", kernel_size), _pair("stride", stride), _pair("padding", padding), _pair("dilation", dilation)
    product = Conv2d.of_matrix("csr_conv2d", pattern.rows, pattern.cols, *sizes, groups)
    kind = layout_named("csr")
    operands = operands_of(kind, pattern)
    return multiply(kind, product, x, weight, bias, operands, activation=activation, pattern=pattern)


def _pair(name: str, size: Any) -> tuple[int, int]:
    """Of a number or a pair; ValueError for all else."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(one, Integral) for one in pair):
        raise ValueError(f"csr_conv2d: expected {name} to be a number or a pair of numbers, got {size!r}")
    return int(pair[0]), int(pair[1])


def nm24_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pattern: Nm24Pattern,
    activation: Literal["relu"] | None = None,
    rule: Rule | None = None,
) -> torch.Tensor:
    """`csr_linear` with a 2:4 sparse weight matrix: at most two non-zeros in every four neighbours of a row.

    The weight may be dense. Then the product uses only the positions of the pattern, and the gradient reaches all positions
    (straight-through).

    Args:
        x: [..., cols]. On CUDA bfloat16 or float16.
        weight: 1-D; packed [rows * 2 * ceil(cols / 4)], of x's dtype, or dense [rows * cols], of x's dtype or float32.
        bias: [rows], of x's dtype, or None.
        pattern: the positions that are used, for example `ops.Nm24Pattern.from_mask(mask)`.
        activation: "relu" or None, as in `csr_linear`.
        rule: how the dense weight was pruned. None: a dense weight's values are used unchanged, as `Rule("largest")` does.

    Returns:
        y [..., rows], of x's dtype.

    Raises:
        ValueError, TypeError: as `csr_linear`.
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
    product = Linear(pattern.rows, pattern.cols)
    return multiply(kind, product, x, weight, bias, operands, rule, activation=activation, pattern=pattern)


def spmm(weight: torch.Tensor, pattern: CsrPattern, x: torch.Tensor) -> torch.Tensor:
    """Sparse times dense, Y = W X; for example a graph's adjacency matrix times its node features.

    Args:
        weight: [capacity], the values of W.
        pattern: their positions in W [rows, cols].
        x: dense [cols, k], of the weight's dtype.

    Returns:
        Y [rows, k].

    Raises:
        ValueError, TypeError: as `csr_linear`.
    """
    return csr_linear(x.t(), weight, None, pattern).t()


def sddmm(pattern: CsrPattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sampled dense-dense product: A B, computed only at the pattern's positions.

    Args:
        pattern: the positions to compute, of a [rows, cols] matrix.
        a, b: dense [rows, k] and [k, cols], of one dtype. Gradients reach both.

    Returns:
        values [capacity], in CSR order; 0 in unused slots.

    Raises:
        ValueError: shapes do not fit, or devices differ.
        TypeError: dtypes differ, or the device has no kernels for them.
    """
    return sampled(pattern, a.t(), b)
