"""`count_flops`: FLOPs that a callable really executes, sparse products counted by their non-zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


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

    Dense products and attention count as PyTorch counts them; sparse ones 2 per stored entry and token, the dense gradient
    that growth needs in full. Element-wise work and topology updates are not counted.
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        function()
    return int(counter.get_total_flops())
