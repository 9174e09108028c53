"""Every operator in plain PyTorch, through the dense matrix: the truth for tests. Slow and simple on purpose."""

from .csr.reference import (
    auto_conv2d,
    auto_conv2d_grad_weight,
    auto_conv2d_t,
    auto_sddmm,
    auto_spmm,
    auto_spmm_t,
    csr_conv2d,
    csr_conv2d_grad_weight,
    csr_conv2d_t,
    csr_from_mask,
    csr_pack,
    csr_sddmm,
    csr_spmm,
    csr_spmm_t,
    csr_transpose,
    csr_unpack,
    densified_grad_weight,
    densified_matmul,
    densified_matmul_t,
)
from .masked.reference import masked_sddmm, masked_select, masked_spmm, masked_spmm_t
from .nm24.reference import auto_gemm, auto_gemm_t, nm24_gemm, nm24_mvue, nm24_pack, nm24_prune, nm24_regrow, nm24_unpack
from .regrow.random import philox4x32, random_u32
from .regrow.reference import regrow, regrow_candidates_, regrow_streamed


def observe_dense_grad_(token, handle, dy, x):
    """Of a layer that nobody watches."""
    token += 1


def follow_(buffers, operands, handle):
    """Of no layer."""


__all__ = [
    "auto_conv2d",
    "auto_conv2d_grad_weight",
    "auto_conv2d_t",
    "auto_gemm",
    "auto_gemm_t",
    "auto_sddmm",
    "auto_spmm",
    "auto_spmm_t",
    "csr_conv2d",
    "csr_conv2d_grad_weight",
    "csr_conv2d_t",
    "csr_from_mask",
    "csr_pack",
    "csr_sddmm",
    "csr_spmm",
    "csr_spmm_t",
    "csr_transpose",
    "csr_unpack",
    "densified_grad_weight",
    "densified_matmul",
    "densified_matmul_t",
    "follow_",
    "masked_sddmm",
    "masked_select",
    "masked_spmm",
    "masked_spmm_t",
    "nm24_gemm",
    "nm24_mvue",
    "nm24_pack",
    "nm24_prune",
    "nm24_regrow",
    "nm24_unpack",
    "observe_dense_grad_",
    "philox4x32",
    "random_u32",
    "regrow",
    "regrow_candidates_",
    "regrow_streamed",
]
