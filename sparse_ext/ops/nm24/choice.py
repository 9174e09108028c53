"""What products take of a dense 2:4 master: the choices, how they are made, stored and checked."""

from __future__ import annotations

import math
import struct
from functools import cache

import torch

from . import kernels as nm24

# What products take of a master: two of four where `codes` say ("largest" of each row, or of "transposable" tiles), each moved
# towards 0 and scaled ("soft"), or all of it ("dense"). A layer stores the index in this tuple.
PRUNINGS = ("largest", "transposable", "soft", "dense")


@cache
def masks_of_codes(device: torch.device) -> torch.Tensor:
    """For each code, its group's mask."""
    return torch.tensor([(1 << (code & 3) | 1 << (code >> 2)) for code in range(16)], dtype=torch.uint8, device=device)


@cache
def _ones(device: torch.device) -> torch.Tensor:
    """For each byte, how many bits are 1."""
    return torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8, device=device)


def count_bits(bits: torch.Tensor) -> torch.Tensor:
    """How many bits are 1, int64 []."""
    return _ones(bits.device)[bits.int()].sum(dtype=torch.int64)


def bits_of(scale: float) -> int:
    """A float32 as an int32, which no dtype move rounds."""
    return int(struct.unpack("i", struct.pack("f", scale))[0])


def scale_of(bits: int) -> float:
    return float(struct.unpack("f", struct.pack("i", bits))[0])


def pruning_of(choice: str, scale: float, device: torch.device | str | None) -> torch.Tensor:
    return torch.tensor([PRUNINGS.index(choice), bits_of(scale)], dtype=torch.int32, device=device)


def used(cols: int) -> int:
    """Positions that a row uses."""
    return cols // 4 * 2 + min(cols % 4, 2)


def droppable(cols: int) -> int:
    """Those of a row's that have an alternative: the last four may be one or two."""
    return cols // 4 * 2 + (2 if cols % 4 == 3 else 0)


def choose(dense: torch.Tensor, choice: str) -> torch.Tensor:
    _, ids, *_ = nm24.nm24_prune(dense, "transposable" if choice == "transposable" else "largest")
    return ids


def soft_scale(dense: torch.Tensor) -> float:
    values, ids = nm24.nm24_prune(dense, "soft")
    soft = nm24.nm24_unpack(values, ids, dense.shape[1]).double()
    square = float(soft.square().sum())
    return float((dense.double() * soft).sum()) / square if square else 1.0


def check_stored(prefix: str, ids: torch.Tensor, pruning: torch.Tensor, rows: int, cols: int) -> None:
    """ValueError, in a sentence, unless they are those of a [rows, cols] pattern. Reads every id."""
    if ids.dtype is not torch.uint8 or ids.shape != nm24.ids_shape(rows, cols):
        expected = nm24.ids_shape(rows, cols)
        raise ValueError(f"{prefix}ids: expected torch.uint8 of shape {expected}, got {ids.dtype} of {tuple(ids.shape)}")
    nm24.check_codes(prefix + "ids: expected codes", ids)
    if pruning.shape != (2,) or pruning.is_floating_point():
        raise ValueError(f"{prefix}pruning: expected two integers, got {pruning.dtype} of shape {tuple(pruning.shape)}")
    index, bits = pruning.tolist()
    if not (0 <= index < len(PRUNINGS) and -(2**31) <= bits < 2**31 and math.isfinite(scale_of(bits))):
        raise ValueError(f"{prefix}pruning: expected one of {len(PRUNINGS)} choices and a finite scale, got {[index, bits]}")
    if PRUNINGS[index] == "transposable":
        mask = nm24.nm24_unpack(torch.ones(nm24.values_shape(rows, cols), device=ids.device), ids, cols)
        ones = torch.nn.functional.pad(mask, (0, 0, 0, -rows % 4)).view(-1, 4, cols).sum(1)
        if ones.numel() and int(most := ones.max()) > 2:
            raise ValueError(
                f"{prefix}ids: expected at most two of every four in a column of transposable tiles, got {int(most)}"
            )
