"""`count_flops`: FLOPs that a callable really executes, sparse products counted by their non-zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

_ops = torch.ops.sparse_ext


@register_flop_formula(_ops.csr_spmm)
def _spmm_flop(weight: Any, row_ptr: Any, col_idx: Any, cols: int, x: Any, *args: Any, out_shape: Any = None, **kw: Any) -> int:
    """2 per stored entry and token; capacity stands for nnz, which only the data knows."""
    return 2 * weight[0] * x[0]


@register_flop_formula(_ops.csr_spmm_t)
def _spmm_t_flop(weight: Any, col_ptr: Any, row_idx: Any, slot: Any, rows: int, dy: Any, *args: Any, **kw: Any) -> int:
    return 2 * weight[0] * dy[0]


@register_flop_formula(_ops.csr_sddmm)
def _sddmm_flop(row_ptr: Any, col_idx: Any, cols: int, dy: Any, x: Any, *args: Any, **kw: Any) -> int:
    return 2 * col_idx[0] * dy[0]


@register_flop_formula(_ops.nm24_gemm)
def _nm24_gemm_flop(values: Any, ids: Any, x: Any, *args: Any, **kw: Any) -> int:
    return int(2 * values[0] * values[1] * x[0])


@register_flop_formula([_ops.densified_matmul, _ops.densified_matmul_t])
def _densified_flop(weight: Any, row_ptr: Any, col_idx: Any, cols: int, x: Any, *args: Any, **kw: Any) -> int:
    return int(2 * x[0] * (row_ptr[0] - 1) * cols)


@register_flop_formula(_ops.densified_grad_weight)
def _densified_grad_flop(row_ptr: Any, col_idx: Any, cols: int, dy: Any, x: Any, *args: Any, **kw: Any) -> int:
    return int(2 * dy[0] * dy[1] * x[1])


def _attention_flop(query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flop(grad_out: Any, query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))


# PyTorch's counter knows the fused attention of GPUs, but not the CPU's.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


def count_flops(function: Callable[[], Any]) -> int:
    """FLOPs of matrix products, attention and convolutions in one call of `function`, forward and backward alike.

    Dense products and attention count as PyTorch counts them; sparse ones 2 per stored entry and token, a dense gradient of
    an armed step in full. Element-wise work and topology updates are not counted.
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        function()
    return int(counter.get_total_flops())
