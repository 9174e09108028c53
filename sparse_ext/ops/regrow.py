"""`torch.ops.sparse_ext.regrow`: replace the weakest connections, with exact counts and a slot map."""

from __future__ import annotations

import torch

from .checks import check_dtype, check_index, check_range
from .launch import address, backend_of, ready, workspace
from .library import define


def _check_score(op: str, weight: torch.Tensor, score: torch.Tensor, rows: int, cols: int) -> None:
    wanted = torch.float64 if weight.dtype == torch.float64 else torch.float32
    if score.dtype != wanted:
        raise TypeError(f"{op}: expected score of dtype {wanted} (weight is {weight.dtype}), got {score.dtype}")
    if score.shape != (rows, cols):
        raise ValueError(f"{op}: expected score of shape ({rows}, {cols}), got {tuple(score.shape)}")
    if score.device != weight.device:
        raise ValueError(f"{op}: expected score on {weight.device} (as weight), got {score.device}")


def _check_counts(op: str, nnz: int, capacity: int, positions: int, drop: int, grow: int) -> None:
    if not 0 <= nnz <= capacity:
        raise ValueError(f"{op}: expected row_ptr to end at {capacity} entries at most, got {nnz}")
    if not 0 <= drop <= nnz:
        raise ValueError(f"{op}: expected drop between 0 and nnz = {nnz}, got {drop}")
    kept = nnz - drop
    room = min(capacity, positions) - kept
    if not 0 <= grow <= room:
        raise ValueError(
            f"{op}: expected grow between 0 and {room} ({kept} of {nnz} entries are kept, capacity {capacity}, "
            f"{positions} positions), got {grow}"
        )


@define(
    "regrow(Tensor weight, Tensor row_ptr, Tensor col_idx, int cols, Tensor? score, int seed, int drop, int grow)"
    " -> (Tensor, Tensor, Tensor)"
)
def regrow(
    weight: torch.Tensor,
    row_ptr: torch.Tensor,
    col_idx: torch.Tensor,
    cols: int,
    score: torch.Tensor | None,
    seed: int,
    drop: int,
    grow: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drops the `drop` entries of smallest |weight|, then grows the `grow` positions of largest score.

    Growth candidates are all positions that are not kept, just-dropped ones included (Evci et al. 2020, "Rigging the
    Lottery", Algorithm 1). Ties go to the lower linear index, so the same scores give the same pattern everywhere.

    Args:
        weight: [capacity]; row_ptr int32 [rows + 1]; col_idx int32 [capacity].
        score: dense [rows, cols] of the sums' dtype (float32; float64 for float64), ranked by absolute value;
            None: the Philox stream `seed`, element r * cols + c (Mocanu et al. 2018, SET's random growth).

    Returns:
        row_ptr, col_idx and source [capacity] of the new pattern; source[q] is the old entry that entry q was, or -1
        where it is new or unused. A position dropped and grown at once keeps its entry.
    """
    op, rows, capacity = "regrow", row_ptr.numel() - 1, col_idx.numel()
    check_index(op, weight, row_ptr=row_ptr, col_idx=col_idx)
    row_ptr, col_idx = row_ptr.contiguous(), col_idx.contiguous()
    if col_idx.dtype != torch.int32:
        raise TypeError(f"{op}: expected col_idx of dtype torch.int32, got {col_idx.dtype}")
    if weight.shape != (capacity,):
        raise ValueError(f"{op}: expected weight of shape ({capacity},) (as col_idx), got {tuple(weight.shape)}")
    backend = backend_of(op, weight)
    dtype = check_dtype(op, backend, "weight", weight)
    if score is not None:
        _check_score(op, weight, score, rows, cols)
        score = ready(score)
    check_range(op, row_ptr, col_idx, cols)
    _check_counts(op, int(row_ptr[-1]), capacity, rows * cols, drop, grow)

    weight = ready(weight)
    new_row_ptr, new_col_idx, source = torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)
    device, where = backend.where(weight)
    space = workspace(weight, backend.module.regrow_workspace(rows, cols, capacity, where))
    backend.module.regrow(
        dtype, new_row_ptr.data_ptr(), new_col_idx.data_ptr(), source.data_ptr(),
        weight.data_ptr(), row_ptr.data_ptr(), col_idx.data_ptr(), 0 if score is None else score.data_ptr(),
        seed & (2**64 - 1), drop, grow, rows, cols, capacity, address(space), device, where,
    )  # fmt: skip
    return new_row_ptr, new_col_idx, source


@regrow.fake
def _(weight, row_ptr, col_idx, cols, score, seed, drop, grow):
    check_index("regrow", weight, row_ptr=row_ptr, col_idx=col_idx)
    if score is not None:
        _check_score("regrow", weight, score, row_ptr.shape[0] - 1, cols)
    return torch.empty_like(row_ptr), torch.empty_like(col_idx), torch.empty_like(col_idx)
