"""torch's FLOP counter, with the fused attention of CPUs."""

from __future__ import annotations

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


def flop_counter() -> FlopCounterMode:
    """Counts, inside a `with` block, matrix products, attention, convolutions, and the sparse products by stored entries."""
    return FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
