"""The layout "dense": all positions, multiplied by PyTorch. What phases of methods that train densely use."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..by_torch import ByTorch
from ..layout import Layout, check_matrix
from ..product import Conv2d, Kernels, Linear
from ..rule import Rule
from .pattern import DensePattern


class DenseOperands(NamedTuple):
    """None: kernels read the weight alone."""


class DenseLinear(Kernels):
    """By `torch.nn.functional.linear`."""

    @staticmethod
    def forward(
        product: Linear,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: DenseOperands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        y = torch.nn.functional.linear(x, weight.view(product.rows, product.cols), bias)
        return y.relu_() if relu else y

    @staticmethod
    def grad_input(
        product: Linear, weight: torch.Tensor, rule: Rule | None, operands: DenseOperands, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        return dy @ weight.view(product.rows, product.cols)

    @staticmethod
    def grad_weight(
        product: Linear,
        rule: Rule | None,
        operands: DenseOperands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        return product.dense_grad(dy, x).view(-1)


class DenseConv2d(ByTorch):
    """The weight is the matrix."""

    @classmethod
    def written(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: DenseOperands, dtype: torch.dtype
    ) -> torch.Tensor:
        return weight

    @classmethod
    def packed(cls, product: Conv2d, operands: DenseOperands, dense: torch.Tensor) -> torch.Tensor:
        return dense.reshape(-1)


class Dense(Layout):
    """Every position."""

    name = "dense"
    stem = "dense"
    pattern = DensePattern
    operands = DenseOperands
    products = {Linear: DenseLinear, Conv2d: DenseConv2d}  # noqa: RUF012
    AT_POSITIONS = True

    @staticmethod
    def allocate(pattern: DensePattern) -> DenseOperands:
        return DenseOperands()

    @staticmethod
    def prepare_(operands: DenseOperands, pattern: DensePattern) -> None:
        pass

    @staticmethod
    def is_prepared(operands: DenseOperands, pattern: DensePattern) -> bool:
        return True

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: DensePattern) -> torch.Tensor:
        check_matrix(dense, pattern)
        return dense.reshape(-1).clone()

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: DensePattern) -> torch.Tensor:
        return values.view(pattern.rows, pattern.cols).clone()
