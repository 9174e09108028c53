"""Nothing is counted twice: which scopes include which."""

from __future__ import annotations

from collections.abc import Sequence

from .counter import Counter

# Beside a counter of the first scope, those of the others are left out. Who stands higher is taken first.
LEFT_OUT_BESIDE = {
    "module": ("platform", "package", "DRAM"),  # GH200: one counter for the GPU, its CPU and the memory of both
    "GPU": ("platform",),  # a laptop's platform may include its GPU; its packages and DRAM do not
    "platform": ("package", "DRAM"),
}


def counted_once(counters: Sequence[Counter]) -> tuple[list[Counter], list[str]]:
    """The counters to add up, and a sentence for each that another one includes."""
    left_out_by: dict[str, str] = {}
    for scope, others in LEFT_OUT_BESIDE.items():
        if scope not in left_out_by and any(counter.scope == scope for counter in counters):
            left_out_by.update(dict.fromkeys(others, scope))
    return (
        [counter for counter in counters if counter.scope not in left_out_by],
        [
            f"{counter.name} is left out: the counter of the {left_out_by[counter.scope]} includes it, or may"
            for counter in counters
            if counter.scope in left_out_by
        ],
    )
