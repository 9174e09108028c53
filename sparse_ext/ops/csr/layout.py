"""The layouts "csr" (compressed sparse rows: any pattern; pays at 80 % zeros and more) and "auto" (the same, any kernel)."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from .. import written_out
from ..auto import POLICY, PRODUCTS, STORAGE, Choice
from ..boundary.checks import MOST, lacking
from ..layout import Layout, check_matrix, operands_of
from ..product import Conv2d, Kernels, Linear, Product
from ..rule import Rule
from . import auto, auto_conv, conversions, kernels
from .convolutions import AutoConv2d, CsrConv2d
from .operands import CsrOperands, packed
from .pattern import CsrPattern

# Up to this many columns an index fits 16 bits, and kernels read half as many index bytes.
MAX_16BIT = 1 << 16


class CsrLinear(Kernels):
    """By `csr_spmm` and `csr_sddmm`."""

    @staticmethod
    def in_table(product: Linear) -> tuple[str | None, ...]:
        return PRODUCTS

    @staticmethod
    def forward(
        product: Linear,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: CsrOperands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        if rule is not None:
            weight = packed(product, weight, operands, x.dtype)
        return kernels.csr_spmm.call(weight, operands.row_ptr, operands.col_idx, product.cols, x, bias, relu)

    @staticmethod
    def grad_input(
        product: Linear, weight: torch.Tensor, rule: Rule | None, operands: CsrOperands, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        if rule is not None:
            weight = packed(product, weight, operands, dy.dtype)
        return kernels.csr_spmm_t.call(weight, *operands, dy)

    @staticmethod
    def grad_weight(
        product: Linear,
        rule: Rule | None,
        operands: CsrOperands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if rule is not None:
            return product.dense_grad(dy, x).view(-1)
        return kernels.csr_sddmm.call(operands.row_ptr, operands.col_idx, product.cols, dy, x)


class Csr(Layout):
    """Compressed sparse rows."""

    name = "csr"
    stem = "csr"
    pattern = CsrPattern
    operands = CsrOperands
    products = {Linear: CsrLinear, Conv2d: CsrConv2d}  # noqa: RUF012

    @staticmethod
    def allocate(pattern: CsrPattern) -> CsrOperands:
        def index(size: int, largest: int) -> torch.Tensor:
            dtype = torch.uint16 if largest <= MAX_16BIT else torch.int32
            return torch.empty(size, dtype=dtype, device=pattern.col_idx.device)

        return CsrOperands(
            row_ptr=torch.empty_like(pattern.row_ptr),
            col_idx=index(pattern.capacity, pattern.cols),
            col_ptr=pattern.row_ptr.new_empty(pattern.cols + 1),
            row_idx=index(pattern.capacity, pattern.rows),
            slot=torch.empty_like(pattern.col_idx),
        )

    @staticmethod
    def prepare_(operands: CsrOperands, pattern: CsrPattern) -> None:
        transposed = conversions.csr_transpose(pattern.row_ptr, pattern.col_idx, pattern.cols)
        for tensor, value in zip(operands, (pattern.row_ptr, pattern.col_idx, *transposed), strict=True):
            tensor.copy_(value)

    @staticmethod
    def is_prepared(operands: CsrOperands, pattern: CsrPattern) -> bool:
        same_rows = torch.equal(operands.row_ptr, pattern.row_ptr)
        return same_rows and torch.equal(operands.col_idx.to(torch.int32), pattern.col_idx)

    @classmethod
    def refuses(cls, dtype: torch.dtype, device: torch.device) -> str | None:
        return lacking(dtype, device)

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: CsrPattern) -> torch.Tensor:
        check_matrix(dense, pattern)
        return conversions.csr_pack(dense, pattern.row_ptr, pattern.col_idx)

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: CsrPattern) -> torch.Tensor:
        return conversions.csr_unpack(values, pattern.row_ptr, pattern.col_idx, pattern.cols)


# ---- "auto" --------------------------------------------------------------------------------------------------------------


class AutoLinear(CsrLinear):
    """Each product unpacks the matrix and multiplies densely where that was measured to be faster.

    A dense product also multiplies the zeros, so Inf and NaN in x reach every output, as in `nn.Linear`.
    """

    UNPACKS = True

    @staticmethod
    def forward(
        product: Linear,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: CsrOperands,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        if rule is not None:
            return CsrLinear.forward(product, weight, rule, operands, x, bias, relu)
        return auto.auto_spmm.call(weight, operands.row_ptr, operands.col_idx, product.cols, x, bias, relu)

    @staticmethod
    def grad_input(
        product: Linear, weight: torch.Tensor, rule: Rule | None, operands: CsrOperands, dy: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        if rule is not None:
            return CsrLinear.grad_input(product, weight, rule, operands, dy, shape)
        return auto.auto_spmm_t.call(weight, *operands, dy)

    @staticmethod
    def grad_weight(
        product: Linear,
        rule: Rule | None,
        operands: CsrOperands,
        dy: torch.Tensor,
        x: torch.Tensor,
        rng: torch.Tensor | None,
    ) -> torch.Tensor:
        if rule is not None:
            return CsrLinear.grad_weight(product, rule, operands, dy, x, rng)
        return auto.auto_sddmm.call(operands.row_ptr, operands.col_idx, product.cols, dy, x)


class Auto(Csr):
    """CSR storage, and for each product the kernel that was measured to be faster; of few zeros, the storage "masked"."""

    name = "auto"
    STORAGES = ("masked",)
    products = {Linear: AutoLinear, Conv2d: AutoConv2d}  # noqa: RUF012

    @classmethod
    def obstacle(cls, product: Product) -> str | None:
        if isinstance(product, Conv2d) and product.channels == 1 < product.groups:
            return "a depthwise convolution has too few weights for zeros to pay"
        return super().obstacle(product)

    @classmethod
    def storage(cls, product: Product, nnz: int, dtype: torch.dtype, device: torch.device) -> Choice:
        positions = product.rows * product.cols
        if positions > MOST:
            return Choice(cls.name, f"more than {MOST} positions: too many for full length")
        # A convolution at full length has no kernels of its own: what can be gained is that nothing is unpacked.
        decisive = auto_conv.all_in_table(product.kernel_size) if isinstance(product, Conv2d) else (STORAGE,)
        return POLICY.storage(cls.name, "masked", positions, nnz, dtype, device, decisive)


# ---- the sampled product ------------------------------------------------------------------------------------------------


class SampledFunction(torch.autograd.Function):
    """values [capacity] = (a^T b) at the pattern; a [k, rows], b [k, cols]. Its gradients are the two matrix products."""

    @staticmethod
    def forward(ctx, pattern: CsrPattern, a: torch.Tensor, b: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(a, b, *operands)
        product = Linear(pattern.rows, pattern.cols)
        return CsrLinear.grad_weight(product, None, CsrOperands(*operands), a, b, None)

    @staticmethod
    def backward(ctx, dv: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, *saved = ctx.saved_tensors
        product, operands = Linear(ctx.pattern.rows, ctx.pattern.cols), CsrOperands(*saved)
        _, needs_a, needs_b, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            matrix = written_out.matrix(Csr, ctx.pattern, None, dv)
            return None, b @ matrix.t() if needs_a else None, a @ matrix if needs_b else None, *(None for _ in saved)
        da = CsrLinear.forward(product, dv, None, operands, b, None, False) if needs_a else None
        db = CsrLinear.grad_input(product, dv, None, operands, a, b.shape) if needs_b else None
        return None, da, db, *(None for _ in saved)


def sampled(pattern: CsrPattern, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(a^T b) at the pattern, [capacity], 0 behind it; a [k, rows], b [k, cols]."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return written_out.sampled(pattern, a, b)
    return SampledFunction.apply(pattern, a, b, *operands_of(Csr, pattern))
