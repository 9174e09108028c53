"""`python -m bench compare OLD NEW`: the same cases in two result files, and whether any became slower.

Speed-ups over the dense layer are compared, not seconds: each was measured in one interleaved run, and machines differ.
"""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]
IDENTITY = (
    "case", "in_features", "out_features", "tokens", "kernel", "size", "stride", "groups",  # some of convolutions alone
    "sparsity", "pattern", "dtype", "device", "threads", "contender",
)  # fmt: skip


def _speedups(rows: Rows) -> dict[tuple[Any, ...], float]:
    """{identity: speed-up}; of a case measured twice the later one counts."""
    return {tuple(row.get(name) for name in IDENTITY): row["speedup"] for row in rows if row["contender"] != "dense"}


def compare(old: Rows, new: Rows, fail_above: float) -> tuple[list[str], list[str]]:
    """(a line for every case that is in both, the lines of those whose speed-up fell by more than `fail_above`)."""
    before, after = _speedups(old), _speedups(new)
    lines, failures = [], []
    for key in before.keys() & after.keys():
        change = after[key] / before[key] - 1
        line = f"{change:+7.1%}  {before[key]:.2f}x -> {after[key]:.2f}x  " + "  ".join(
            str(value) for value in key if value is not None
        )
        lines.append((change, line))
        if change < -fail_above:
            failures.append((change, line))
    return [line for _, line in sorted(lines)], [line for _, line in sorted(failures)]
