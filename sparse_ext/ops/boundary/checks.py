"""What every tensor passes before its pointer leaves Python. Errors are sentences: what was expected, what was found."""

from __future__ import annotations

import torch

from .environment import chosen
from .launch import BACKENDS, DTYPES, FLOATING, Backend

# Index tensors that may be 16-bit, where the matrix is narrow enough.
IDS = ("col_idx", "row_idx")
PTRS = ("row_ptr", "col_ptr")

# Rows, columns and entries of a CSR matrix: indices are int32, and a CUDA thread may count one stride past a row's end.
MOST = 2**31 - 2**16

# Every call also reads every index and refuses a pattern that would send a kernel out of bounds.
DEBUG = chosen("SPARSE_EXT_DEBUG") == "1"


def check_dtype(op: str, backend: Backend, name: str, tensor: torch.Tensor) -> int:
    """The kernels' code of the tensor's dtype; TypeError where they have none."""
    if tensor.dtype not in backend.dtypes:
        raise TypeError(f"{op}: {_without_kernels(name, backend, tensor.dtype, tensor.device)}")
    return DTYPES[tensor.dtype]


def lacking(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why kernels cannot multiply weights of this dtype on this device, in words; None: they can, or there are none at all."""
    backend = BACKENDS.get(device.type)
    if backend is None or dtype in backend.dtypes:
        return None
    return _without_kernels("a weight", backend, dtype, device)


def _without_kernels(name: str, backend: Backend, dtype: torch.dtype, device: torch.device) -> str:
    allowed = ", ".join(sorted(str(d).removeprefix("torch.") for d in backend.dtypes))
    hint = f"; {dtype} needs a GPU, use bfloat16 or float32 here" if dtype in FLOATING else ""
    return f"expected {name} of dtype {allowed} on {device.type}, got {dtype}{hint}"


# Attributes of a tensor cost a tenth of a microsecond each: what follows asks for few, the cheap ones first.


def _apart(tensor: torch.Tensor, like: torch.Tensor) -> bool:
    """Whether the two are on different devices."""
    return not (tensor.is_cpu and like.is_cpu) and tensor.device != like.device


def check_values(op: str, name: str, like: torch.Tensor, **others: torch.Tensor | None) -> None:
    """All of the dtype and on the device of `like`; TypeError / ValueError otherwise."""
    dtype = like.dtype
    for other, tensor in others.items():
        if tensor is None:
            continue
        if tensor.dtype is not dtype:
            raise TypeError(f"{op}: expected {other} of dtype {dtype} (as {name}), got {tensor.dtype}")
        if _apart(tensor, like):
            raise ValueError(f"{op}: expected {other} on {like.device} (as {name}), got {tensor.device}")


def check_index(op: str, like: torch.Tensor, **indices: torch.Tensor) -> None:
    """1-D int32 (or uint16, for column and row ids) on the device of `like`."""
    for name, index in indices.items():
        dtype = index.dtype
        if dtype is not torch.int32 and (dtype is not torch.uint16 or name not in IDS):
            allowed = "torch.int32 or torch.uint16" if name in IDS else "torch.int32"
            raise TypeError(f"{op}: expected {name} of dtype {allowed}, got {dtype}")
        if index.dim() != 1:
            raise ValueError(f"{op}: expected {name} with 1 dimension, got shape {tuple(index.shape)}")
        if name in PTRS and not index.shape[0]:
            raise ValueError(f"{op}: expected {name} with one element more than there are rows, got none")
        if _apart(index, like):
            raise ValueError(f"{op}: expected {name} on {like.device} (as the values), got {index.device}")


def check_entries(op: str, name: str, count: int, **tensors: torch.Tensor) -> None:
    """All 1-D and of one length, the capacity."""
    for other, tensor in tensors.items():
        if tensor.dim() != 1 or tensor.numel() != count:
            raise ValueError(f"{op}: expected {other} of shape ({count},) (as {name}), got {tuple(tensor.shape)}")


def check_sizes(op: str, rows: int, cols: int, capacity: int) -> None:
    """ValueError unless int32 indices can count all of them."""
    for what, size in (("rows", rows), ("columns", cols), ("entries", capacity)):
        if size > MOST:
            raise ValueError(f"{op}: expected at most {MOST} {what} (indices are int32), got {size}")


def check_range(op: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> None:
    """cols is a size. In debug mode, `check_pattern`, too: reading every index costs as much as a small product."""
    if cols < 0:
        raise ValueError(f"{op}: expected cols of at least 0, got {cols}")
    if DEBUG:
        check_pattern(op, row_ptr, col_idx, row_ptr.numel() - 1, cols)


def check_slots(op: str, slot: torch.Tensor, capacity: int) -> None:
    """In debug mode: every slot names one of the values."""
    if DEBUG and slot.numel() and not 0 <= int(slot.min()) <= int(slot.max()) < capacity:
        bad = slot[(slot < 0) | (slot >= capacity)][0]
        raise ValueError(f"{op}: expected slot with indices between 0 and {capacity - 1}, got {int(bad)}")


def check_positions(
    op: str, position: torch.Tensor, count: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int, rows: int
) -> None:
    """In debug mode: the first `count` are ascending positions of the first `rows` rows, and none of the pattern's entries."""
    if not DEBUG:
        return
    number, positions = int(count), rows * cols
    used = position[: max(number, 0)]
    edges = torch.cat([used.new_full((1,), -1), used, used.new_full((1,), positions)])
    if used.numel() != number or int(edges.diff().min()) <= 0:
        raise ValueError(f"{op}: expected {number} ascending positions between 0 and {positions - 1}, got {used.tolist()[:9]}")
    counts = row_ptr.diff().long()
    entries = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts) * cols
    if (taken := used[torch.isin(used, entries + col_idx[: entries.numel()])]).numel():
        raise ValueError(f"{op}: expected positions that are no entries, got {int(taken[0])}")


def check_pattern(name: str, row_ptr: torch.Tensor, col_idx: torch.Tensor, rows: int, cols: int) -> None:
    """ValueError, in a sentence, unless (row_ptr, col_idx) is a valid pattern of [rows, cols]. Reads every index."""
    if row_ptr.shape != (rows + 1,):
        raise ValueError(f"{name}: expected row_ptr of shape ({rows + 1},), got {tuple(row_ptr.shape)}")
    if col_idx.dim() != 1:
        raise ValueError(f"{name}: expected col_idx with 1 dimension, got shape {tuple(col_idx.shape)}")
    row_ptr, col_idx = row_ptr.long(), col_idx.long()
    if rows and int(row_ptr[0]) != 0:
        raise ValueError(f"{name}: expected row_ptr to begin with 0, got {int(row_ptr[0])}")
    if rows and int((counts := row_ptr.diff()).min()) < 0:
        row = int((counts < 0).nonzero()[0])
        raise ValueError(
            f"{name}: expected row_ptr to be monotone, got {int(row_ptr[row])} then {int(row_ptr[row + 1])} at row {row}"
        )
    nnz = int(row_ptr[-1])
    if nnz > col_idx.numel():
        raise ValueError(f"{name}: expected row_ptr to end at {col_idx.numel()} entries at most, got {nnz}")
    used = col_idx[:nnz]
    if nnz and (int(used.min()) < 0 or int(used.max()) >= cols):
        bad = used[(used < 0) | (used >= cols)][0]
        raise ValueError(f"{name}: expected column indices between 0 and {cols - 1}, got {int(bad)}")
    row_of = torch.repeat_interleave(torch.arange(rows, device=row_ptr.device), row_ptr.diff())
    linear = row_of * cols + used
    if nnz and int((steps := linear.diff()).min() if nnz > 1 else 1) <= 0:
        at = int((steps <= 0).nonzero()[0])
        raise ValueError(
            f"{name}: expected columns ascending inside a row, got {int(used[at])} then {int(used[at + 1])} "
            f"in row {int(row_of[at])}"
        )
