"""How a product is made of another one. So a layout whose kernels multiply matrices serves convolutions, too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from .by_torch import ByTorch
from .product import Conv1d, Conv2d, Kernels, Linear, tile_rows
from .rule import Rule


class Unfolded(ByTorch):
    """`Conv2d` by kernels for `Linear`: every pixel of y is a token, whose columns are what the kernel sees of x there.

    Tokens are made tile by tile, each of at least a row of pixels, so that all of them are never in memory. Of several groups
    each has rows of its own, which kernels for whole matrices do not tell apart: there the matrix is written out.

    Attributes:
        of: these kernels.
    """

    of: ClassVar[type[Kernels]]

    @classmethod
    def forward(
        cls,
        product: Conv2d,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        if product.groups > 1:
            return super().forward(product, weight, rule, operands, x, bias, relu)
        y = x.new_empty((x.shape[0], product.rows, *product.out_size(product.name, x.shape[2], x.shape[3])))
        around = _with_zeros(product, x)
        for tile in _tiles(product, y):
            part = y[tile]
            tokens = cls.of.forward(_linear(product), weight, rule, operands, _seen(product, around, tile), bias, relu)
            part.copy_(tokens.view(part.shape[0], part.shape[2], part.shape[3], product.rows).permute(0, 3, 1, 2))
        return y

    @classmethod
    def grad_input(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: Any, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        if product.groups > 1:
            return super().grad_input(product, weight, rule, operands, dy, shape)
        (height, width), (top, left) = shape[2:], product.padding
        wide = torch.promote_types(dy.dtype, torch.float32)  # dx is rounded once
        around = dy.new_zeros((*shape[:2], height + 2 * top, width + 2 * left), dtype=wide)
        for tile in _tiles(product, dy):
            part, band = dy[tile], around[_band(product, tile)]
            size = torch.Size((part.shape[0] * part.shape[2] * part.shape[3], product.cols))
            seen = cls.of.grad_input(_linear(product), weight, rule, operands, _tokens(part), size)
            columns = seen.view(part.shape[0], part.shape[2] * part.shape[3], product.cols).transpose(1, 2).to(wide)
            band += F.fold(columns, band.shape[2:], product.kernel_size, product.dilation, 0, product.stride)
        return around[:, :, top : top + height, left : left + width].to(dy.dtype).contiguous()

    @classmethod
    def grad_weight(
        cls,
        product: Conv2d,
        rule: Rule | None,
        operands: Any,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if product.groups > 1:
            return super().grad_weight(product, rule, operands, dy, x, rng)
        around, total = _with_zeros(product, x), None
        for tile in _tiles(product, dy):
            tokens, seen = _tokens(dy[tile]), _seen(product, around, tile)
            part = cls.of.grad_weight(_linear(product), rule, operands, tokens, seen, rng)
            part = part.to(torch.promote_types(part.dtype, torch.float32))  # dw is rounded once
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.to(dy.dtype)

    @classmethod
    def written(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: Any, dtype: torch.dtype
    ) -> torch.Tensor:
        """A token with a single 1 reads a column. Inf and NaN in a row make all of its products NaN."""
        ones = torch.eye(product.cols, dtype=dtype, device=weight.device)
        return cls.of.forward(_linear(product), weight, rule, operands, ones, None, False).t().contiguous()

    @classmethod
    def packed(cls, product: Conv2d, operands: Any, dense: torch.Tensor) -> torch.Tensor:
        ones = torch.eye(product.cols, dtype=dense.dtype, device=dense.device)
        return cls.of.grad_weight(_linear(product), None, operands, dense.t().contiguous(), ones, None)


def _unfolded(linear: type[Kernels]) -> type[Kernels]:
    return type(f"Unfolded{linear.__name__}", (Unfolded,), {"of": linear})


# What each is made of, and how; in this order: one may be made of one that was made.
RULES: dict[type[Any], tuple[type[Any], Callable[[type[Kernels]], type[Kernels]]]] = {
    Conv2d: (Linear, _unfolded),
    Conv1d: (Conv2d, lambda conv2d: conv2d),
}


def completed(products: dict[type, type[Kernels]]) -> dict[type, type[Kernels]]:
    """{product class: kernels class} with those that are missing, where they can be made of the others."""
    found = dict(products)
    for product, (source, made_of) in RULES.items():
        if product not in found and source in found:
            found[product] = made_of(found[source])
    return found


# ---- tiles of tokens -------------------------------------------------------------------------------------------------

Tile = tuple[slice, slice, slice]  # images, channels (all), rows of pixels


def _linear(product: Conv2d) -> Linear:
    return Linear(product.rows, product.cols)


def _tiles(product: Conv2d, y: torch.Tensor) -> Iterator[Tile]:
    """Of y or its gradient, [batch, rows, height, width]: images, or some rows of one. At least one, though it be empty.

    A program that is compiled for any number of images takes all of them at once.
    """
    batch, _, height, width = y.shape
    if torch.compiler.is_compiling() and _is_any(batch):
        yield slice(None), slice(None), slice(0, height)
        return
    rows = min(height, max(1, tile_rows(y.device, product.cols) // width))  # a tile has so many rows of pixels
    images = max(1, tile_rows(y.device, product.cols) // (height * width))
    for first in range(0, max(1, batch), images):
        for top in range(0, height, rows):
            yield slice(first, first + images), slice(None), slice(top, min(top + rows, height))


def _is_any(size: int) -> bool:
    """Whether the compiler treats this size as a variable."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # loads the compiler, which is there by now

    return not statically_known_true(size <= sys.maxsize >> 1)


def _band(product: Conv2d, tile: Tile) -> Tile:
    """What a tile sees of x with its zeros."""
    reach = product.dilation[0] * (product.kernel_size[0] - 1) + 1
    step, (images, channels, rows) = product.stride[0], tile
    return images, channels, slice(rows.start * step, (rows.stop - 1) * step + reach)


def _with_zeros(product: Conv2d, x: torch.Tensor) -> torch.Tensor:
    top, left = product.padding
    return F.pad(x, (left, left, top, top)) if top or left else x


def _seen(product: Conv2d, around: torch.Tensor, tile: Tile) -> torch.Tensor:
    """[tokens, cols]: what the kernel sees at every pixel of a tile; around: x with its zeros."""
    band = around[_band(product, tile)]
    for dim, kernel, stride, dilation in zip((2, 3), product.kernel_size, product.stride, product.dilation, strict=True):
        band = band.unfold(dim, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return band.permute(0, 2, 3, 1, 4, 5).reshape(band.shape[0] * band.shape[2] * band.shape[3], product.cols)


def _tokens(dy: torch.Tensor) -> torch.Tensor:
    """[tokens, rows] of dy [images, rows, height, width]."""
    return dy.permute(0, 2, 3, 1).flatten(0, 2)
