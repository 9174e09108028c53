"""The convolutions of layout "auto": by `csr_conv2d`, or by torch with the weight written out, as was measured to be faster.

Where a group has one input channel, as in depthwise convolutions, they are torch's: there is hardly anything to skip. Each
operator chooses when it runs, as those of auto.py; in the table of ops/auto.py a pixel of y is a token.
"""

from __future__ import annotations

import math

import torch

from ..auto import POLICY
from ..boundary.checks import check_values
from ..boundary.launch import reading_waits
from ..boundary.library import define
from ..product import Conv2d
from .conv import WINDOW, IsDense, Sizes, Window, convolve, convolve_grad_weight, convolve_t, empty, empty_t
from .kernels import count_entries

# Products in the table.
PRODUCTS = FORWARD, GRAD_INPUT, GRAD_WEIGHT = "conv2d", "conv2d_t", "conv2d_grad_weight"


def in_table(product: str, kernel_size: Sizes) -> str:
    """What the table calls a product: 1 x 1 kernels, which have code of their own, by another name."""
    return product if math.prod(kernel_size) > 1 else f"{product} 1 x 1"


def all_in_table(kernel_size: Sizes) -> tuple[str, ...]:
    """The three products of a training step, as the table calls them."""
    return tuple(in_table(product, kernel_size) for product in PRODUCTS)


def _chooser(product: str, like: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> IsDense:
    """Which convolutions with such a pattern are done densely; like: a tensor of x's dtype and device."""

    def is_dense(conv2d: Conv2d, pixels: int) -> bool:
        if conv2d.channels == 1:
            return True
        entries = col_idx.shape[0] if reading_waits(row_ptr) else count_entries(row_ptr, col_idx)
        name = in_table(product, conv2d.kernel_size)
        return POLICY.is_dense(name, like, conv2d.rows, conv2d.cols, entries, tokens=pixels)

    return is_dense


def _flops(product: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, dy: torch.Tensor, window: Window) -> int:
    rows, pixels = row_ptr.shape[0] - 1, dy.shape[0] * dy.shape[2] * dy.shape[3]
    dense = _chooser(product, dy, row_ptr, col_idx)(Conv2d.of_matrix(product, rows, cols, *window), pixels)
    return int(2 * pixels * (rows * cols if dense else count_entries(row_ptr, col_idx)))


@define(
    "auto_conv2d(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor x, Tensor? bias, "
    f"{WINDOW}, bool relu=False) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, cols, x, bias, *window, out_val, **__: _flops(
        FORWARD, row_ptr, col_idx, cols, out_val, window[:5]
    ),
)
def auto_conv2d(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    relu: bool = False,
) -> torch.Tensor:
    """As `csr_conv2d`."""
    window = kernel_size, stride, padding, dilation, groups
    chooser = _chooser(FORWARD, x, row_ptr, col_idx)
    return convolve("auto_conv2d", chooser, weight, row_ptr, col_idx, cols, x, bias, window, relu)


@auto_conv2d.fake
def _(weight, row_ptr, col_idx, cols, x, bias, kernel_size, stride, padding, dilation, groups, relu=False):
    check_values("auto_conv2d", "x", x, weight=weight, bias=bias)
    return empty("auto_conv2d", row_ptr, cols, x, (kernel_size, stride, padding, dilation, groups))


@define(
    "auto_conv2d_t(Tensor weight, Tensor row_ptr, Tensor col_idx, Tensor col_ptr, Tensor row_idx, Tensor slot, Tensor dy, "
    f"SymInt[2] size, {WINDOW}) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, size, *window, **__: _flops(
        GRAD_INPUT, row_ptr, col_idx, col_ptr.shape[0] - 1, dy, window
    ),
)
def auto_conv2d_t(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
    size: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """As `csr_conv2d_t`."""
    index, window = (row_ptr, col_idx, col_ptr, row_idx, slot), (kernel_size, stride, padding, dilation, groups)
    return convolve_t("auto_conv2d_t", _chooser(GRAD_INPUT, dy, row_ptr, col_idx), weight, *index, dy, size, window)


@auto_conv2d_t.fake
def _(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, size, kernel_size, stride, padding, dilation, groups):
    check_values("auto_conv2d_t", "dy", dy, weight=weight)
    return empty_t(col_ptr, dy, size, kernel_size, groups)


@define(
    f"auto_conv2d_grad_weight(Tensor row_ptr, Tensor col_idx, int cols, Tensor dy, Tensor x, {WINDOW}) -> Tensor",
    flops=lambda row_ptr, col_idx, cols, dy, x, *window, **__: _flops(GRAD_WEIGHT, row_ptr, col_idx, cols, dy, window),
)
def auto_conv2d_grad_weight(
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    dy: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """As `csr_conv2d_grad_weight`; where it is dense, the dense gradient is in memory."""
    window, chooser = (kernel_size, stride, padding, dilation, groups), _chooser(GRAD_WEIGHT, x, row_ptr, col_idx)
    return convolve_grad_weight("auto_conv2d_grad_weight", chooser, row_ptr, col_idx, cols, dy, x, window)


@auto_conv2d_grad_weight.fake
def _(row_ptr, col_idx, cols, dy, x, kernel_size, stride, padding, dilation, groups):
    check_values("auto_conv2d_grad_weight", "dy", dy, x=x)
    return x.new_empty((col_idx.shape[0],))
