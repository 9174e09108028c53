"""What the hardware allows: the least time of each product on an H200, from bytes, multiply-adds and shared-memory reads.

`python -m bench bounds` prints the table of docs/gpu-kernels.md. Constants are the vendor's or measured by others, not by us.
"""

from __future__ import annotations

import torch

from .cases import Case, Shape

COPY_BYTES_S = 4.3e12  # device memory, as a copy reaches it
L2_BYTES_S = 5.5e12
SHARED_BYTES_S = 132 * 128 * 1.98e9  # 128 bytes a clock on each multiprocessor
FLOPS_S = 67e12  # float32 on CUDA cores
DENSE_FLOPS_S = {"float32": 55e12, "bfloat16": 790e12, "float16": 790e12}  # cuBLAS
SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
TILE_ROWS, TILE_TOKENS = 256, 128  # of csr_spmm's tile: what passes L2 again for every tile
HEADLINE = Shape(4096, 4096, 8192)


def terms(case: Case, product: str) -> dict[str, float]:
    """Seconds that each resource needs for a CSR product on CUDA cores, where each multiply reads one shared operand."""
    shape, size = case.shape, SIZES[case.row["dtype"]]
    entries = (1 - case.sparsity) * shape.in_features * shape.out_features
    activations = size * shape.tokens
    times = 3 if product == "step" else 1
    memory = entries * (size + 2) + activations * (shape.in_features + shape.out_features)
    through_l2 = activations * shape.in_features * shape.out_features / TILE_ROWS
    through_l2 += entries * (size + 2) * shape.tokens / TILE_TOKENS
    return {
        "memory": times * memory / COPY_BYTES_S,
        "L2": times * through_l2 / L2_BYTES_S,
        "multiply-adds": times * 2 * entries * shape.tokens / FLOPS_S,
        "shared memory": times * entries * activations / SHARED_BYTES_S,
    }


def bound_s(case: Case, product: str) -> float:
    """The slowest of the terms; a 16-bit weight gradient may also be a dense product of tensor cores, sampled."""
    dtype = case.row["dtype"]
    slowest = max(terms(case, product).values())
    if product == "weight gradient" and dtype in ("bfloat16", "float16"):
        return min(slowest, dense_s(case, product))
    return slowest


def dense_s(case: Case, product: str) -> float:
    """What the dense product takes at cuBLAS's rate."""
    shape = case.shape
    flops = 2 * shape.tokens * shape.in_features * shape.out_features * (3 if product == "step" else 1)
    return flops / DENSE_FLOPS_S[case.row["dtype"]]


def regrow_s(case: Case) -> float:
    """Bytes alone: values and scores are read twice, a bitmap written, the pattern with its transposed view rebuilt."""
    shape = case.shape
    positions = shape.in_features * shape.out_features
    entries = (1 - case.sparsity) * positions
    return (8 * entries + 2 * 4 * positions + positions / 8 + 18 * entries) / COPY_BYTES_S


def table() -> str:
    """4096 x 4096, 8192 tokens: microseconds that each resource needs, and the speed-up that is left at best."""
    lines = [
        "| product | dtype | zeros | memory | L2 | multiply-adds | shared memory | bound | dense | at best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for product in ("forward", "weight gradient"):
        for dtype in (torch.float32, torch.bfloat16):
            for sparsity in (0.8, 0.9, 0.95, 0.98):
                case = Case(HEADLINE, sparsity, "uniform", dtype, "cuda")
                times = [*terms(case, product).values(), bound_s(case, product), dense_s(case, product)]
                cells = [f"{1e6 * seconds:.0f}" for seconds in times]
                head = f"| {product} | {case.row['dtype']} | {sparsity:.0%} | "
                lines.append(head + " | ".join(cells) + f" | {times[-1] / times[-2]:.2f}x |")
    for sparsity in (0.8, 0.9, 0.95, 0.98):
        seconds = regrow_s(Case(HEADLINE, sparsity, "uniform", torch.float32, "cuda"))
        lines.append(f"| regrow | float32 | {sparsity:.0%} | {1e6 * seconds:.0f} | | | | {1e6 * seconds:.0f} | | |")
    return "\n".join(lines)
