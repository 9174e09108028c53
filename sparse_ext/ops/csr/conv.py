"""Convolutions with a CSR weight as torch operators (`torch.ops.sparse_ext.csr_conv2d*`), directly: no column matrix is made.

On CUDA a window that does not fit shared memory is convolved by torch with the weight written out, zeros and all: kernels of
thousands of taps, or a dilation as wide.

Shapes in this file: weight [capacity] holds the values of a matrix [rows, channels * kernel_h * kernel_w], whose column
(c * kernel_h + ky) * kernel_w + kx belongs to channel c of the row's group; x [batch, groups * channels, height, width]; y, dy
[batch, rows, out_height, out_width]. Padding is zeros. Wrong shapes raise ValueError, wrong dtypes TypeError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..boundary import views
from ..boundary.checks import MOST, check_dtype, check_entries, check_index, check_range, check_slots, check_values
from ..boundary.launch import backend_of, ready, workspace
from ..boundary.library import define
from ..by_torch import dense_grad_input
from ..product import Conv2d
from . import conversions
from .kernels import check_views, count_entries

Sizes = Sequence[int]
Window = tuple[Sizes, Sizes, Sizes, Sizes, int]  # kernel size, stride, padding, dilation, groups
IsDense = Callable[[Conv2d, int], bool]  # of a product and the number of pixels in y

WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, int groups"


def _check_images(op: str, name: str, images: torch.Tensor, channels: int, size: Sizes | None = None) -> None:
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"{op}: expected {name} [batch, {channels}, height, width], got shape {tuple(images.shape)}")
    if size is not None and tuple(images.shape[2:]) != tuple(size):
        raise ValueError(f"{op}: expected {name} of {size[0]} x {size[1]} pixels, got {images.shape[2]} x {images.shape[3]}")


def _check_count(op: str, product: Conv2d, height: int, width: int) -> None:
    """Kernels count the pixels of an image, its padding included, with 32 bits."""
    pixels = (height + 2 * product.padding[0]) * (width + 2 * product.padding[1])
    largest = max(product.groups * product.channels * pixels, product.rows * pixels)
    if largest > MOST:
        raise ValueError(f"{op}: expected at most {MOST} elements in an image with its padding, got {largest}")


def _never(product: Conv2d, pixels: int) -> bool:
    return False


def _dense(weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, product: Conv2d) -> torch.Tensor:
    return conversions.csr_unpack.kernel(weight, row_ptr, col_idx, product.cols).view(product.kernel_shape)


def _flops(row_ptr: torch.Tensor, col_idx: torch.Tensor, dy: torch.Tensor) -> int:
    return int(2 * count_entries(row_ptr, col_idx) * dy.shape[0] * dy.shape[2] * dy.shape[3])


@define(
    "csr_conv2d(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor x, Tensor? bias, "
    f"{WINDOW}, bool relu=False) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, cols, x, *_, out_val, **__: _flops(row_ptr, col_idx, out_val),
)
def csr_conv2d(
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
    """y = conv2d(x, W) + bias, then relu, if `relu`. Sums in float32 (float64 for float64), in an order of their own."""
    window = kernel_size, stride, padding, dilation, groups
    return convolve("csr_conv2d", _never, weight, row_ptr, col_idx, cols, x, bias, window, relu)


@csr_conv2d.fake
def _(weight, row_ptr, col_idx, cols, x, bias, kernel_size, stride, padding, dilation, groups, relu=False):
    check_values("csr_conv2d", "x", x, weight=weight, bias=bias)
    return empty("csr_conv2d", row_ptr, cols, x, (kernel_size, stride, padding, dilation, groups))


def empty(op: str, row_ptr: torch.Tensor, cols: int, x: torch.Tensor, window: Window) -> torch.Tensor:
    """y, uninitialised."""
    product = Conv2d.of_matrix(op, row_ptr.shape[0] - 1, cols, *window)
    return x.new_empty((x.shape[0], product.rows, *product.out_size(op, x.shape[2], x.shape[3])))


def convolve(
    op: str,
    is_dense: IsDense,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    window: Window,
    relu: bool,
) -> torch.Tensor:
    """`csr_conv2d` for the operator `op`. is_dense: whether torch convolves with the weight written out, kernel or not."""
    rows = row_ptr.numel() - 1
    check_index(op, x, row_ptr=row_ptr, col_idx=col_idx)
    product = Conv2d.of_matrix(op, rows, cols, *window)
    _check_images(op, "x", x, product.takes[1])
    check_values(op, "x", x, weight=weight, bias=bias)
    check_entries(op, "col_idx", col_idx.numel(), weight=weight)
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"{op}: expected bias of shape ({rows},), got {tuple(bias.shape)}")
    (batch, _, height, width), backend = x.shape, backend_of(op, x)
    size = product.out_size(op, height, width)
    dtype = check_dtype(op, backend, "x", x)
    _check_count(op, product, height, width)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    x, weight, bias = ready(x), ready(weight), None if bias is None else ready(bias)
    w, stream = (weight.data_ptr(), dtype, views.pattern(row_ptr, col_idx, cols)), backend.stream(x)
    shape = views.conv2d(product, batch, height, width, size)
    space_bytes = backend.module.csr_conv2d_workspace(w, shape, stream)
    if space_bytes < 0 or is_dense(product, batch * size[0] * size[1]):
        with torch.autocast(x.device.type, enabled=False):  # y has x's dtype, as everywhere
            y = torch.conv2d(x, _dense(weight, row_ptr, col_idx, product), bias, *product.window[1:]).contiguous()
        return y.relu_() if relu else y
    y, space = x.new_empty(batch, rows, *size), workspace(x, space_bytes)
    backend.module.csr_conv2d(y.data_ptr(), w, x.data_ptr(), shape, views.address(bias), relu, views.address(space), stream)
    return y


@define(
    "csr_conv2d_t(Tensor weight, Tensor row_ptr, Tensor col_idx, Tensor col_ptr, Tensor row_idx, Tensor slot, Tensor dy, "
    f"SymInt[2] size, {WINDOW}) -> Tensor",
    flops=lambda weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, *_, **__: _flops(row_ptr, col_idx, dy),
)
def csr_conv2d_t(
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
    """dx, of images of this size (height, width): the input gradient. (col_ptr, row_idx, slot) is the transposed view."""
    index, window = (row_ptr, col_idx, col_ptr, row_idx, slot), (kernel_size, stride, padding, dilation, groups)
    return convolve_t("csr_conv2d_t", _never, weight, *index, dy, size, window)


@csr_conv2d_t.fake
def _(weight, row_ptr, col_idx, col_ptr, row_idx, slot, dy, size, kernel_size, stride, padding, dilation, groups):
    check_values("csr_conv2d_t", "dy", dy, weight=weight)
    return empty_t(col_ptr, dy, size, kernel_size, groups)


def empty_t(col_ptr: torch.Tensor, dy: torch.Tensor, size: Sizes, kernel_size: Sizes, groups: int) -> torch.Tensor:
    """dx, uninitialised."""
    channels = (col_ptr.shape[0] - 1) // (kernel_size[0] * kernel_size[1])
    return dy.new_empty((dy.shape[0], groups * channels, *size))


def convolve_t(
    op: str,
    is_dense: IsDense,
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    col_ptr: torch.Tensor,
    row_idx: torch.Tensor,
    slot: torch.Tensor,
    dy: torch.Tensor,
    size: Sizes,
    window: Window,
) -> torch.Tensor:
    """`csr_conv2d_t` as `convolve` does `csr_conv2d`."""
    rows, cols = row_ptr.numel() - 1, col_ptr.numel() - 1
    check_index(op, dy, row_ptr=row_ptr, col_idx=col_idx, col_ptr=col_ptr, row_idx=row_idx, slot=slot)
    product = Conv2d.of_matrix(op, rows, cols, *window)
    out = product.out_size(op, *size)
    _check_images(op, "dy", dy, rows, out)
    check_values(op, "dy", dy, weight=weight)
    check_entries(op, "row_idx", row_idx.numel(), weight=weight, col_idx=col_idx, slot=slot)
    check_slots(op, slot, weight.numel())
    check_views(op, row_ptr, col_idx, col_ptr, row_idx, slot)
    batch, backend = dy.shape[0], backend_of(op, dy)
    dtype = check_dtype(op, backend, "dy", dy)
    _check_count(op, product, *size)
    shape_x = (batch, product.takes[1], *size)
    if 0 in shape_x:
        return dy.new_empty(shape_x)
    col_ptr, row_idx, slot = col_ptr.contiguous(), row_idx.contiguous(), slot.contiguous()
    check_range(op, col_ptr, row_idx, rows)
    dy, weight = ready(dy), ready(weight)
    w, stream = (weight.data_ptr(), dtype, views.pattern(col_ptr, row_idx, rows, slot)), backend.stream(dy)
    shape = views.conv2d(product, batch, size[0], size[1], out)
    space_bytes = backend.module.csr_conv2d_t_workspace(w, shape, stream)
    if space_bytes < 0 or is_dense(product, batch * out[0] * out[1]):
        matrix = _dense(weight, row_ptr.contiguous(), col_idx.contiguous(), product)
        return dense_grad_input(product, matrix, dy, shape_x).contiguous()
    dx, space = dy.new_empty(shape_x), workspace(dy, space_bytes)
    backend.module.csr_conv2d_t(dx.data_ptr(), w, dy.data_ptr(), shape, views.address(space), stream)
    return dx


@define(
    f"csr_conv2d_grad_weight(Tensor row_ptr, Tensor col_idx, int cols, Tensor dy, Tensor x, {WINDOW}) -> Tensor",
    flops=lambda row_ptr, col_idx, cols, dy, *_, **__: _flops(row_ptr, col_idx, dy),
)
def csr_conv2d_grad_weight(
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
    """dw [capacity] at the pattern, 0 behind it: the weight gradient, with no dense gradient in memory."""
    window = kernel_size, stride, padding, dilation, groups
    return convolve_grad_weight("csr_conv2d_grad_weight", _never, row_ptr, col_idx, cols, dy, x, window)


@csr_conv2d_grad_weight.fake
def _(row_ptr, col_idx, cols, dy, x, kernel_size, stride, padding, dilation, groups):
    check_values("csr_conv2d_grad_weight", "dy", dy, x=x)
    return x.new_empty((col_idx.shape[0],))


def convolve_grad_weight(
    op: str,
    is_dense: IsDense,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    dy: torch.Tensor,
    x: torch.Tensor,
    window: Window,
) -> torch.Tensor:
    """`csr_conv2d_grad_weight` as `convolve` does `csr_conv2d`."""
    rows = row_ptr.numel() - 1
    check_index(op, x, row_ptr=row_ptr, col_idx=col_idx)
    product = Conv2d.of_matrix(op, rows, cols, *window)
    _check_images(op, "x", x, product.takes[1])
    (batch, _, height, width), backend = x.shape, backend_of(op, x)
    size = product.out_size(op, height, width)
    _check_images(op, "dy", dy, rows, size)
    if dy.shape[0] != batch:
        raise ValueError(f"{op}: expected dy of {batch} images (as x), got {dy.shape[0]}")
    check_values(op, "dy", dy, x=x)
    dtype = check_dtype(op, backend, "x", x)
    _check_count(op, product, height, width)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    check_range(op, row_ptr, col_idx, cols)
    if dy.numel() == 0 or cols == 0:
        return x.new_zeros((col_idx.numel(),))
    dy, x, dw = ready(dy), ready(x), x.new_empty((col_idx.numel(),))
    pattern, shape = views.pattern(row_ptr, col_idx, cols), views.conv2d(product, batch, height, width, size)
    dw_view, stream = (dw.data_ptr(), dtype, 1, dw.numel()), backend.stream(x)
    space_bytes = backend.module.csr_conv2d_grad_weight_workspace(dw_view, pattern, shape, stream)
    if space_bytes < 0 or is_dense(product, batch * size[0] * size[1]):
        return conversions.csr_pack.kernel(product.dense_grad(dy, x), row_ptr, col_idx)
    space = workspace(x, space_bytes)
    backend.module.csr_conv2d_grad_weight(dw_view, pattern, dy.data_ptr(), x.data_ptr(), shape, views.address(space), stream)
    return dw
