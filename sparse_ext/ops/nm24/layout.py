"""The layout "2:4": two of every four neighbours of a row, which tensor cores multiply at up to twice the dense rate.

Which of the three products are sparse:
- Forward: always.
- Input gradient: if the pattern is transposable; otherwise W is unpacked and multiplied densely.
- Weight gradient: if the layer samples its output gradient; otherwise it is computed densely, and packed for a packed weight.
Where a dense product was measured to be faster, as with few tokens, the weight is unpacked instead (auto.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..layout import Layout
from ..product import Kernels, Linear
from ..rule import Rule
from . import auto, kernels, training
from .pattern import Nm24Pattern


class Nm24Operands(NamedTuple):
    """Attributes:
    ids: uint8 [rows, ceil(groups / 2)], as the pattern's.
    """

    ids: torch.Tensor


class Nm24Linear(Kernels):
    """By `nm24_gemm`. A float32 dense weight multiplies 16-bit tokens: it is rounded as it is packed."""

    @staticmethod
    def in_table(product: Linear) -> tuple[str | None, ...]:
        return auto.FORWARD, None, None  # the gradients depend on the rule, and packed weights have none

    @staticmethod
    def forward(
        product: Linear,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: Nm24Operands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        _check(product, weight, rule, x)
        values, ids = _packed(product, weight, rule, operands, x.dtype)
        return auto.auto_gemm.call(values, ids, x, bias, relu)

    @staticmethod
    def grad_input(
        product: Linear, weight: torch.Tensor, rule: Rule | None, operands: Nm24Operands, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        if rule is not None and rule.name == "transposable":
            return auto.auto_gemm_t.call(weight.view(product.rows, product.cols), operands.ids, dy)
        values, ids = _packed(product, weight, rule, operands, dy.dtype)
        return dy @ kernels.nm24_unpack.call(values, ids, product.cols)

    @staticmethod
    def grad_weight(
        product: Linear,
        rule: Rule | None,
        operands: Nm24Operands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if rng is None:
            dense = product.dense_grad(dy, x)
        else:
            values_t, ids_t = training.nm24_mvue.call(dy, rng)
            dense = kernels.nm24_gemm.call(values_t, ids_t, x.t().contiguous(), None).t().contiguous()
        if rule is None:
            (dense,) = kernels.nm24_pack.call(dense, operands.ids, False, dense.dtype)
        return dense.view(-1)


def _check(product: Linear, weight: torch.Tensor, rule: Rule | None, x: torch.Tensor) -> None:
    """ValueError / TypeError where weight and x do not belong together; the operators do not know what a weight is of."""
    length = product.rows * (product.cols if rule is not None else kernels.values_shape(1, product.cols)[1])
    if weight.shape != (length,):
        raise ValueError(f"nm24_linear: expected weight of shape ({length},), got {tuple(weight.shape)}")
    rounds = rule is not None and weight.dtype is torch.float32 and x.dtype.itemsize == 2
    if weight.dtype is not x.dtype and not rounds:
        raise TypeError(f"nm24_linear: expected x of dtype {weight.dtype} (as the weight), got {x.dtype}")


def _packed(
    product: Linear, weight: torch.Tensor, rule: Rule | None, operands: Nm24Operands, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """values [rows, 2 * groups] and ids that products multiply by; of a dense weight its chosen part, in this dtype.

    "soft" subtracts the third largest of four, so it chooses anew: the pattern may be older than the weight.
    """
    if rule is None:
        return weight.view(kernels.values_shape(product.rows, product.cols)), operands.ids
    dense = weight.view(product.rows, product.cols)
    if rule.name == "soft":
        values, ids = kernels.nm24_prune.call(dense, "soft", dtype, rule.scale)
        return values, ids
    return kernels.nm24_pack.call(dense, operands.ids, False, dtype)[0], operands.ids


class Nm24(Layout):
    """Two of every four neighbours of a row."""

    name = "2:4"
    stem = "nm24"
    pattern = Nm24Pattern
    operands = Nm24Operands
    products = {Linear: Nm24Linear}  # noqa: RUF012
    SAMPLES = True

    @staticmethod
    def allocate(pattern: Nm24Pattern) -> Nm24Operands:
        return Nm24Operands(torch.empty_like(pattern.ids))

    @staticmethod
    def prepare_(operands: Nm24Operands, pattern: Nm24Pattern) -> None:
        operands.ids.copy_(pattern.ids)

    @staticmethod
    def is_prepared(operands: Nm24Operands, pattern: Nm24Pattern) -> bool:
        return torch.equal(operands.ids, pattern.ids)

    @classmethod
    def backward_entries(cls, product: Any, nnz: Any, rule: str | None, sampled: bool) -> tuple[Any, Any]:
        positions = product.rows * product.cols
        return nnz if rule == "transposable" else positions, positions // 2 if sampled else positions

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: Nm24Pattern) -> torch.Tensor:
        if dense.shape != (pattern.rows, pattern.cols):
            raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")
        (values,) = kernels.nm24_pack(dense, pattern.ids)
        return values.view(-1)

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: Nm24Pattern) -> torch.Tensor:
        return kernels.nm24_unpack(values.view(kernels.values_shape(pattern.rows, pattern.cols)), pattern.ids, pattern.cols)

    @classmethod
    def matrix(cls, weight: torch.Tensor, pattern: Nm24Pattern, rule: Rule | None) -> torch.Tensor:
        values, ids = _packed(Linear(pattern.rows, pattern.cols), weight, rule, Nm24Operands(pattern.ids), weight.dtype)
        return kernels.nm24_unpack(values, ids, pattern.cols)
