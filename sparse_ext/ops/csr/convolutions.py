"""The kernels of convolutions for the layouts "csr" and "auto"."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..product import Conv2d, Kernels
from ..rule import Rule
from . import auto_conv, conv
from .operands import CsrOperands, packed


class CsrConv2d(Kernels):
    """By `csr_conv2d`."""

    FORWARD: ClassVar[Any] = conv.csr_conv2d
    GRAD_INPUT: ClassVar[Any] = conv.csr_conv2d_t
    GRAD_WEIGHT: ClassVar[Any] = conv.csr_conv2d_grad_weight

    @staticmethod
    def in_table(product: Conv2d) -> tuple[str | None, ...]:
        depthwise = product.channels == 1 < product.groups
        return (None, None, None) if depthwise else auto_conv.all_in_table(product.kernel_size)

    @classmethod
    def forward(
        cls,
        product: Conv2d,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: CsrOperands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        if rule is not None:
            weight = packed(product, weight, operands, x.dtype)
        return cls.FORWARD.call(weight, *operands[:2], product.cols, x, bias, *product.window, relu)

    @classmethod
    def grad_input(
        cls,
        product: Conv2d,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: CsrOperands,
        dy: torch.Tensor,
        shape: torch.Size,
    ) -> torch.Tensor:
        if rule is not None:
            weight = packed(product, weight, operands, dy.dtype)
        return cls.GRAD_INPUT.call(weight, *operands, dy, shape[2:], *product.window)

    @classmethod
    def grad_weight(
        cls,
        product: Conv2d,
        rule: Rule | None,
        operands: CsrOperands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if rule is not None:
            return product.dense_grad(dy, x).view(-1)
        return cls.GRAD_WEIGHT.call(*operands[:2], product.cols, dy, x, *product.window)


class AutoConv2d(CsrConv2d):
    """Torch convolves where that was measured to be faster, zeros and all: Inf and NaN in x reach every output then."""

    UNPACKS = True
    FORWARD = auto_conv.auto_conv2d
    GRAD_INPUT = auto_conv.auto_conv2d_t
    GRAD_WEIGHT = auto_conv.auto_conv2d_grad_weight
