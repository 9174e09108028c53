"""`Product`: the operation of a layer. It knows shapes, not layouts; a layout has `Kernels` for each product it supports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

from .rule import Rule

One = tuple[int]

# Elements in a tile: it should fit the last-level cache of a CPU; on a GPU it should fill the device and fit the L2 cache.
TILE = {"cpu": 1 << 21, "cuda": 1 << 22}


class Linear(NamedTuple):
    """y [..., rows] = x [..., cols] W^T + bias for a weight W [rows, cols], as `torch.nn.functional.linear`."""

    rows: int
    cols: int

    @property
    def name(self) -> str:
        """As in error messages: "csr_linear"."""
        return "linear"

    @property
    def takes(self) -> tuple[int, int]:
        """Of x, as kernels take it: the number of dimensions, and the size of the second one."""
        return 2, self.cols

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return (self.rows, self.cols)

    def batched(self, op: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """x as [tokens, cols], and its leading dimensions; ValueError unless its last one is `cols`."""
        if x.dim() == 0 or x.shape[-1] != self.cols:
            raise ValueError(
                f"{op}: expected x with {self.cols} columns (weight has {self.cols} input features), got shape {tuple(x.shape)}"
            )
        # Not reshape: the number of tokens would have to be known, and a compiler would fix it.
        return x.flatten(0, -2) if x.dim() > 1 else x[None], x.shape[:-1]

    def unbatched(self, y: torch.Tensor, lead: torch.Size) -> torch.Tensor:
        """y [tokens, rows] with x's leading dimensions."""
        return y.view(*lead, self.rows)

    def grad_bias(self, dy: torch.Tensor) -> torch.Tensor:
        """[rows] of dy [tokens, rows]."""
        return dy.sum(0)

    def dense_grad(self, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The dense weight gradient dy^T x, [rows, cols]."""
        return dy.t() @ x

    def dense_grad_tiles(
        self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype
    ) -> Iterator[tuple[range, torch.Tensor]]:
        """The sum of dy^T x over pairs (dy, x), in tiles of whole rows: yields (rows, tile [len(rows), cols]).

        The next tile overwrites the last one, so the whole dense gradient is never in memory.
        """
        if not pairs:
            return
        wide = [(dy, x.to(dtype)) for dy, x in pairs]
        memory = wide[0][1].new_empty((min(self.rows, tile_rows(wide[0][1].device, self.cols)), self.cols))
        for first in range(0, self.rows, max(1, len(memory))):
            rows = range(first, min(first + len(memory), self.rows))
            tile = memory[: len(rows)]
            for number, (dy, x) in enumerate(wide):
                part = dy[:, rows.start : rows.stop].to(dtype).t()
                torch.mm(part, x, out=tile) if number == 0 else tile.addmm_(part, x)
            yield rows, tile


class Conv2d(NamedTuple):
    """y = `torch.nn.functional.conv2d`(x, W) + bias of x [batch, groups * channels, height, width] with zeros around it.

    W [rows, channels, kernel_h, kernel_w] is a matrix [rows, cols] whose columns are (channel, ky, kx). Pairs are of height and
    width.
    """

    rows: int
    channels: int  # of a group
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of_matrix(
        cls,
        op: str,
        rows: int,
        cols: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Conv2d:
        """The convolution whose weight is a matrix [rows, cols]; ValueError if there is none with such numbers."""
        pairs: list[Any] = [tuple(sizes) for sizes in (kernel_size, stride, padding, dilation)]
        product = cls(rows, 0, pairs[0], pairs[1], pairs[2], pairs[3], groups)
        product.check(op)
        taps = kernel_size[0] * kernel_size[1]
        if cols % taps:
            raise ValueError(
                f"{op}: expected a weight with a multiple of {taps} columns (kernel {product.kernel_size}), got {cols}"
            )
        return product._replace(channels=cols // taps)

    @property
    def name(self) -> str:
        return "conv2d"

    @property
    def cols(self) -> int:
        return self.channels * self.kernel_size[0] * self.kernel_size[1]

    @property
    def takes(self) -> tuple[int, int]:
        """As of `Linear`."""
        return 4, self.groups * self.channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return self.kernel_shape

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Of the weight, as torch's functions for images take it."""
        return (self.rows, self.channels, *self.kernel_size)

    @property
    def window(self) -> tuple[Any, ...]:
        """As operators take it: kernel size, stride, padding, dilation and groups."""
        return self[2:]

    def check(self, op: str) -> None:
        """ValueError unless there is such a convolution."""
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) < least:
                raise ValueError(f"{op}: expected {name} to be two numbers of at least {least}, got {tuple(pair)}")
        if self.groups < 1 or self.rows % self.groups:
            raise ValueError(f"{op}: expected groups to divide the {self.rows} output channels, got {self.groups}")

    def out_size(self, op: str, height: int, width: int) -> tuple[int, int]:
        """(height, width) of y; ValueError where the kernel is larger than x with its padding."""
        padded = [size + 2 * padding for size, padding in zip((height, width), self.padding, strict=True)]
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if padded[0] < reach[0] or padded[1] < reach[1]:
            raise ValueError(
                f"{op}: expected x of at least {reach[0]} x {reach[1]} pixels with its padding (as the kernel), "
                f"got {padded[0]} x {padded[1]}"
            )
        return (padded[0] - reach[0]) // self.stride[0] + 1, (padded[1] - reach[1]) // self.stride[1] + 1

    def batched(self, op: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """An image without a batch dimension as a batch of one, and the leading dimensions: none; ValueError for all else."""
        channels = self.groups * self.channels
        if x.dim() != 3 or x.shape[0] != channels:
            raise ValueError(
                f"{op}: expected x [batch, {channels}, height, width], or one image without batch, got {tuple(x.shape)}"
            )
        return x[None], x.shape[:0]

    def unbatched(self, y: torch.Tensor, lead: torch.Size) -> torch.Tensor:
        """y as x was."""
        return y[0]

    def grad_bias(self, dy: torch.Tensor) -> torch.Tensor:
        """[rows] of dy [batch, rows, out_height, out_width]."""
        # Twice as fast as one sum over all three. It is rounded once.
        return dy.sum((2, 3), dtype=torch.promote_types(dy.dtype, torch.float32)).sum(0).to(dy.dtype)

    def dense_grad(self, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The dense weight gradient, [rows, cols]."""
        # As torch.nn.grad.conv2d_weight, whose placeholder for the weight is copied.
        how = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (False, True, False))
        dw = torch.ops.aten.convolution_backward(dy, x, x.new_empty(self.kernel_shape), None, *how)[1]
        return dw.reshape(self.rows, self.cols)

    def dense_grad_tiles(
        self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype
    ) -> Iterator[tuple[range, torch.Tensor]]:
        """As of `Linear`: rows of one group, or of whole groups, are a tile."""
        if not pairs or not self.rows:
            return
        step, per_group = tile_rows(pairs[0][1].device, self.cols), self.rows // self.groups
        whole = max(1, step // per_group)
        for group in range(0, self.groups, whole):
            groups = min(whole, self.groups - group)
            channels = slice(group * self.channels, (group + groups) * self.channels)
            end = (group + groups) * per_group
            for first in range(group * per_group, end, max(step, 1) if groups == 1 else end):
                rows = range(first, min(first + step, end) if groups == 1 else end)
                part = self._replace(rows=len(rows), groups=groups)
                grads = [part.dense_grad(dy[:, rows.start : rows.stop].to(dtype), x[:, channels].to(dtype)) for dy, x in pairs]
                yield rows, sum(grads[1:], grads[0])


class Conv1d(Conv2d):
    """`torch.nn.functional.conv1d` of x [batch, groups * channels, length]: kernels for `Conv2d` get images of height 1."""

    __slots__ = ()

    @classmethod
    def of(cls, rows: int, channels: int, kernel_size: One, stride: One, padding: One, dilation: One, groups: int) -> Conv1d:
        """Of the sizes of `nn.Conv1d`."""
        return cls(rows, channels, (1, *kernel_size), (1, *stride), (0, *padding), (1, *dilation), groups)

    @property
    def name(self) -> str:
        return "conv1d"

    @property
    def takes(self) -> tuple[int, int]:
        """As of `Linear`; but no x is taken as it is."""
        return -1, self.groups * self.channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return (self.rows, self.channels, self.kernel_size[1])

    def batched(self, op: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """x, or a signal without a batch dimension, as images; and the leading dimensions. ValueError for all else."""
        channels = self.groups * self.channels
        if x.dim() not in (2, 3) or x.shape[-2] != channels:
            raise ValueError(f"{op}: expected x [batch, {channels}, length], or one signal without batch, got {tuple(x.shape)}")
        return (x if x.dim() == 3 else x[None]).unsqueeze(2), x.shape[:-2]

    def unbatched(self, y: torch.Tensor, lead: torch.Size) -> torch.Tensor:
        """y as x was."""
        return y.squeeze(2) if lead else y[0, :, 0]


Product = Linear | Conv2d  # all products


class Kernels(ABC):
    """One layout's kernels for one product: the forward pass and both gradients.

    weight is 1-D. Without a `rule` it is packed, [capacity], and of x's dtype. With one it is dense, [rows * cols], and
    products use the pattern's part of it, cast to x's dtype. operands is the layout's NamedTuple. x is as the
    product takes it. The functions are called inside an autograd function, which `torch.compile` may trace.
    """

    UNPACKS: ClassVar[bool] = False  # the weight, where `auto`'s table says that dense products are faster

    @staticmethod
    def in_table(product: Any) -> tuple[str | None, ...]:
        """What `auto`'s table calls the forward product and both gradients; None: it has no rows of such a one."""
        return None, None, None

    @staticmethod
    @abstractmethod
    def forward(
        product: Any,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        """y, for a linear product [tokens, rows] of x [tokens, cols]; then relu, if `relu`."""

    @staticmethod
    @abstractmethod
    def grad_input(
        product: Any, weight: torch.Tensor, rule: Rule | None, operands: Any, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        """dx, of this shape."""

    @staticmethod
    @abstractmethod
    def grad_weight(
        product: Any, rule: Rule | None, operands: Any, dy: torch.Tensor, x: torch.Tensor, rng: torch.Tensor | None
    ) -> torch.Tensor:
        """dw, of the weight's shape: at the pattern, or everywhere for a dense weight (straight-through).

        Args:
            rng: int64 [2], (seed, offset), to sample the output gradient; it adds 1 to offset. None: dw is exact.
        """


def tile_rows(device: torch.device, cols: int) -> int:
    """How many rows of a [rows, cols] matrix are a tile."""
    return max(1, TILE.get(device.type, TILE["cuda"]) // max(1, cols))
