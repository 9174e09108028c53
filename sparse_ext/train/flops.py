"""`count_flops`: the FLOPs that a callable executes; a sparse product counts its stored entries only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _attention_flop(query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flop(grad_out: Any, query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))


# PyTorch's counter covers the fused attention of GPUs, but not that of CPUs.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


def count_flops(function: Callable[[], Any]) -> int:
    """Counts the FLOPs of one call of `function`: matrix products, attention and convolutions, forward and backward.

    A sparse product counts 2 per stored entry and token; the dense gradient for growth counts in full; all else counts as in
    `torch.utils.flop_counter`. Element-wise operations and pattern updates are not counted.

    Args:
        function: called once, without arguments.

    Returns:
        The number of floating-point operations; a multiply-add counts as 2.

    Example:
        flops = count_flops(lambda: model(x).sum().backward())
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        function()
    return int(counter.get_total_flops())
