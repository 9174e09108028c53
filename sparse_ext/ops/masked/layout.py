"""The layout "masked": any positions of a weight that has room for all of them. Pays where there are few zeros.

The products are dense, of the weight at its mask: hardly slower than the dense layer's, and the pattern may change as that of
"csr". It saves no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..boundary.checks import lacking
from ..by_torch import ByTorch
from ..layout import Layout, check_matrix
from ..product import Conv2d, Kernels, Linear
from ..rule import Rule
from . import kernels
from .pattern import MaskedPattern


class MaskedOperands(NamedTuple):
    """Attributes:
    bits: uint8 [ceil(rows * cols / 8)], as the pattern's.
    """

    bits: torch.Tensor


class MaskedLinear(Kernels):
    """By `masked_spmm` and `masked_sddmm`. The zeros are multiplied: Inf and NaN in x reach every output."""

    @staticmethod
    def forward(
        product: Linear,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: MaskedOperands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        if rule is not None:
            weight = weight.to(x.dtype)
        return kernels.masked_spmm.call(weight, operands.bits, product.rows, x, bias, relu)

    @staticmethod
    def grad_input(
        product: Linear, weight: torch.Tensor, rule: Rule | None, operands: MaskedOperands, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        if rule is not None:
            weight = weight.to(dy.dtype)
        return kernels.masked_spmm_t.call(weight, operands.bits, product.cols, dy)

    @staticmethod
    def grad_weight(
        product: Linear,
        rule: Rule | None,
        operands: MaskedOperands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if rule is not None:
            return product.dense_grad(dy, x).view(-1)
        return kernels.masked_sddmm.call(operands.bits, dy, x)


class MaskedConv2d(ByTorch):
    """By torch's convolution of the weight at its mask."""

    @classmethod
    def written(
        cls, product: Conv2d, weight: torch.Tensor, rule: Rule | None, operands: MaskedOperands, dtype: torch.dtype
    ) -> torch.Tensor:
        return kernels.masked_select.call(weight.to(dtype), operands.bits)

    @classmethod
    def packed(cls, product: Conv2d, operands: MaskedOperands, dense: torch.Tensor) -> torch.Tensor:
        return kernels.masked_select.call(dense.reshape(-1), operands.bits)


class Masked(Layout):
    """Any positions, at full length."""

    name = "masked"
    pattern = MaskedPattern
    operands = MaskedOperands
    products = {Linear: MaskedLinear, Conv2d: MaskedConv2d}  # noqa: RUF012
    AT_POSITIONS = True

    @staticmethod
    def allocate(pattern: MaskedPattern) -> MaskedOperands:
        return MaskedOperands(torch.empty_like(pattern.mask_bits))

    @staticmethod
    def prepare_(operands: MaskedOperands, pattern: MaskedPattern) -> None:
        operands.bits.copy_(pattern.mask_bits)

    @staticmethod
    def is_prepared(operands: MaskedOperands, pattern: MaskedPattern) -> bool:
        return torch.equal(operands.bits, pattern.mask_bits)

    @classmethod
    def refuses(cls, dtype: torch.dtype, device: torch.device) -> str | None:
        return lacking(dtype, device)

    @classmethod
    def held(cls, operands: MaskedOperands) -> dict[str, torch.Tensor]:
        return {"mask_bits": operands.bits}

    @classmethod
    def at_pattern(cls, values: torch.Tensor, operands: MaskedOperands) -> torch.Tensor:
        return kernels.masked_select.call(values, operands.bits)

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: MaskedPattern) -> torch.Tensor:
        check_matrix(dense, pattern)
        return kernels.masked_select(dense.reshape(-1), pattern.mask_bits)

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: MaskedPattern) -> torch.Tensor:
        return kernels.masked_select(values, pattern.mask_bits).view(pattern.rows, pattern.cols)
