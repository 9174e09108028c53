"""Nothing is counted twice: which scopes include which."""

from __future__ import annotations

from collections.abc import Sequence

from .counter import Counter

# Beside a counter of the first scope, those of the others are left out. Who stands higher is taken first.
LEFT_OUT_BESIDE = {
    "module": ("platform", "package", "DRAM"),  # GH200: one counter for the GPU, its CPU and the memory of both
    "GPU": ("platform",),  # a laptop's platform may include its GPU; its packages and DRAM do not
    "platform": ("package", "DRAM"),
    "package": (),
    "DRAM": (),
}


def counted_once(counters: Sequence[Counter]) -> tuple[list[Counter], list[str]]:
    """The counters to add up, and a sentence for each that another one includes."""
    left_out_by: dict[str, str | None] = {}
    for scope in (scope for scope in LEFT_OUT_BESIDE if any(counter.scope == scope for counter in counters)):
        kept = (other for other, by in left_out_by.items() if by is None)
        left_out_by[scope] = next((other for other in kept if scope in LEFT_OUT_BESIDE[other]), None)
    return (
        [counter for counter in counters if left_out_by.get(counter.scope) is None],
        [
            f"{counter.name} is left out: the counter of the {by} includes it, or may"
            for counter in counters
            if (by := left_out_by.get(counter.scope))
        ],
    )
