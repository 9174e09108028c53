"""What the hardware allows: the least time of a product on an H200, from bytes, multiply-adds and shared-memory reads.

Constants as measured by others or given by the vendor, not by us: device copy 4.3 TB/s, float32 67 TFLOP/s on CUDA cores,
shared memory 128 bytes a clock on each of 132 multiprocessors at 1.98 GHz.
"""

from __future__ import annotations

from .cases import Case

COPY_BYTES_S = 4.3e12
FLOPS_S = 67e12
SHARED_BYTES_S = 132 * 128 * 1.98e9
SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def terms(case: Case, product: str) -> dict[str, float]:
    """Seconds that each resource needs for a CSR product on CUDA cores; one shared operand per multiply-add."""
    shape, size = case.shape, SIZES[case.row["dtype"]]
    entries = (1 - case.sparsity) * shape.in_features * shape.out_features
    times = 3 if product == "step" else 1
    memory = entries * (size + 2) + size * shape.tokens * (shape.in_features + shape.out_features)
    return {
        "memory": times * memory / COPY_BYTES_S,
        "multiply-adds": times * 2 * entries * shape.tokens / FLOPS_S,
        "shared memory": times * entries * shape.tokens * size / SHARED_BYTES_S,
    }


def bound_s(case: Case, product: str) -> float:
    """The slowest of the terms."""
    return max(terms(case, product).values())
