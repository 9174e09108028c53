"""`SparseConv2d` and `SparseConv1d`: convolutions whose weight, gradient and optimizer state have the size of the non-zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Proxy

from sparse_ext.ops import Conv1d, Conv2d

from .arguments import check_size, whole_number
from .foreign import as_leaf
from .replacement import Replacement

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Size = int | Sequence[int]


class Window(NamedTuple):
    """What a convolution looks at, by the names of `nn.Conv2d`'s attributes: a size for each dimension of an image."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str  # "same" and "valid" stay words
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    @classmethod
    def of(cls, layer: Any) -> Window:
        """Of a dense or a sparse layer, or of another window."""
        return cls(*(getattr(layer, name) for name in cls._fields))

    def checked(self, op: str, dims: int) -> Window:
        """With a number as a size for each of so many dimensions. ValueError for what no convolution has."""
        at_least = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0}
        if isinstance(self.padding, str) and self.padding in ("same", "valid"):
            del at_least["padding"]
        sizes: dict[str, Any] = {name: _sizes(op, name, getattr(self, name), least, dims) for name, least in at_least.items()}
        if "padding" not in sizes and self.padding == "same" and max(sizes["stride"]) > 1:
            raise ValueError(f"{op}: expected stride 1 with padding 'same', got {self.stride}")
        if self.padding_mode not in PADDING_MODES:
            known = ", ".join(map(repr, PADDING_MODES))
            raise ValueError(f"{op}: expected padding_mode to be one of {known}, got {self.padding_mode!r}")
        sizes |= {name: check_size(op, name, getattr(self, name), 1) for name in ("in_channels", "out_channels", "groups")}
        for name in ("in_channels", "out_channels"):
            if sizes[name] % sizes["groups"]:
                raise ValueError(f"{op}: expected groups to divide {name} {sizes[name]}, got {sizes['groups']}")
        return self._replace(**sizes)

    def around(self) -> list[tuple[int, int]]:
        """(before, after) of each dimension: how many pixels are added. "same" adds the odd one behind, as PyTorch does."""
        if not isinstance(self.padding, str):
            return [(size, size) for size in self.padding]
        if self.padding == "valid":
            return [(0, 0) for _ in self.kernel_size]
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]

    def zeros(self) -> tuple[int, ...] | None:
        """What the product adds by itself: as many zeros before as after; None if the padding is another one."""
        around = self.around()
        if any(before != after for before, after in around) or (self.padding_mode != "zeros" and any(map(any, around))):
            return None
        return tuple(before for before, _ in around)


class SparseConv(Replacement):
    """What sparse convolutions share. A subclass defines DENSE, PRODUCT (which makes the product) and DIMS (of an image)."""

    ARGUMENTS = Window._fields
    PRODUCT: ClassVar[Callable[..., Any]]
    DIMS: ClassVar[int]

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        sparsity: float | None = None,
        layout: str = "csr",
        capacity: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        given: Any = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        window = Window(*given).checked(type(self).__name__, self.DIMS)
        super().__init__(self.product_of(window), bias, sparsity, layout, capacity, device, dtype)
        for name, value in window._asdict().items():
            setattr(self, name, value)
        # As `F.pad` takes it, from the last dimension on; empty where the product pads.
        self._pad = [size for pair in reversed(window.around()) for size in pair] if window.zeros() is None else []
        self.reset_parameters()

    @classmethod
    def product_of(cls, dense: Any) -> Any:
        window = Window.of(dense)
        sizes, zeros = (window.kernel_size, window.stride), window.zeros() or (0,) * cls.DIMS
        channels = window.in_channels // window.groups
        return cls.PRODUCT(window.out_channels, channels, *sizes, zeros, window.dilation, groups=window.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of x, plus bias; x as the dense layer takes it. Of a channels_last x it is channels_last, too."""
        if type(x) is not torch.Tensor and isinstance(x, Proxy):
            return as_leaf(self, x)
        inner = x
        if self._pad:
            dims, channels = self.product.takes
            if x.dim() != dims or x.shape[1] != channels:
                self.product.batched(type(self).__name__, x)  # refuses what has not these channels
            inner = F.pad(x, self._pad, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        y = super().forward(inner)
        if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            return y.contiguous(memory_format=torch.channels_last)
        return y


class SparseConv2d(SparseConv):
    """`nn.Conv2d` with a sparse weight W [out_channels, in_channels / groups, kernel_h, kernel_w].

    Input and output are those of `nn.Conv2d`. The kernels of "csr" convolve directly: no column matrix (im2col) is made. The
    forward pass and both gradients skip the zeros of W. A new layer has random positions. Second derivatives and transforms of
    `torch.func` write W out as a dense matrix.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype: as in `nn.Conv2d`.
        padding, padding_mode: as in `nn.Conv2d`. What is no padding by zeros, as many before as after, copies the input.
        sparsity, layout, capacity: as in `SparseLinear`, of W as a matrix with a row for each output channel.

    Attributes:
        weight: Parameter [capacity], 1-D: the non-zeros, output channel by output channel.
        bias: Parameter [out_channels] or None.
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as in `nn.Conv2d`.
        layout, layout_reason, pattern: as in `SparseLinear`. `mask()` and `dense_weight()` have W's shape.

    Raises:
        ValueError: there is no such convolution; or unknown layout, or a sparsity, capacity or shape that it does not allow.
        TypeError: as of `SparseLinear`.

    Example:
        layer = SparseConv2d(64, 128, 3, padding=1, sparsity=0.9)
        y = layer(torch.randn(8, 64, 28, 28))  # [8, 128, 28, 28]
        layer.weight.shape  # [7373]: a tenth of 128 * 64 * 3 * 3
    """

    DENSE = nn.Conv2d
    PRODUCT = Conv2d
    DIMS = 2


class SparseConv1d(SparseConv):
    """`nn.Conv1d` with a sparse weight W [out_channels, in_channels / groups, kernel_size].

    Input and output are those of `nn.Conv1d`; all else is as in `SparseConv2d`, of images of height 1.

    Example:
        layer = SparseConv1d(64, 128, 5, padding="same", sparsity=0.9)
        y = layer(torch.randn(8, 64, 100))  # [8, 128, 100]
    """

    DENSE = nn.Conv1d
    PRODUCT = Conv1d.of
    DIMS = 1


def _sizes(op: str, name: str, size: Any, least: int, dims: int) -> tuple[int, ...]:
    """A whole number for each dimension; ValueError if these are none, or too small."""
    try:
        sizes = [whole_number(one) for one in ([size] * dims if whole_number(size) is not None else size)]
    except TypeError:  # neither a number nor a sequence
        sizes = []
    found = tuple(one for one in sizes if one is not None and one >= least)
    if len(sizes) != dims or len(found) != dims:
        raise ValueError(f"{op}: expected {name} to be a whole number of at least {least}, or {dims} of them, got {size!r}")
    return found
