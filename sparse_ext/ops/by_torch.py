"""`ByTorch`: convolutions of a matrix that is written out, by torch's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from .product import Conv2d, Kernels
from .rule import Rule


class ByTorch(Kernels):
    """Convolves densely: the zeros are multiplied, so Inf and NaN in x reach every output, as in `nn.Conv2d`.

    A subclass says how a matrix is written out and packed.
    """

    @classmethod
    @abstractmethod
    def written(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: Any, dtype: torch.dtype
    ) -> torch.Tensor:
        """The matrix [rows, cols] that x is convolved with, in this dtype, contiguous."""

    @classmethod
    @abstractmethod
    def packed(cls, product: Conv2d, operands: Any, dense: torch.Tensor) -> torch.Tensor:
        """The values [capacity] of a matrix [rows, cols] at the pattern, 0 in unused slots."""

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
        product.out_size(product.name, x.shape[2], x.shape[3])  # torch's own error does not say what fits
        dense = cls.written(product, weight, rule, operands, x.dtype).view(product.kernel_shape)
        y = torch.conv2d(x, dense, bias, *product.window[1:])
        return y.relu_() if relu else y

    @classmethod
    def grad_input(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: Any, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        return dense_grad_input(product, cls.written(product, weight, rule, operands, dy.dtype), dy, shape)

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
        dense = product.dense_grad(dy, x)
        return dense.view(-1) if rule is not None else cls.packed(product, operands, dense)


def dense_grad_input(product: Conv2d, dense: torch.Tensor, dy: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """dx, of this shape, for a weight that is written out, of any shape."""
    # As torch.nn.grad.conv2d_input, whose placeholder for x is copied.
    how = (product.stride, product.padding, product.dilation, False, (0, 0), product.groups, (True, False, False))
    weight = dense.view(product.kernel_shape)
    return torch.ops.aten.convolution_backward(dy, dy.new_empty(shape), weight, None, *how)[0]
