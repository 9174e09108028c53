"""`Nm24Pattern`: two of every four neighbours of a row."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..boundary.checks import check_sizes
from ..pattern import Pattern, Sizes, count_bits
from ..rule import Rule
from . import kernels, training

# What version 1 of a layer's checkpoint numbered.
_RULES_V1 = ("largest", "transposable", "soft", "dense")


@dataclass(frozen=True, eq=False)
class Nm24Pattern(Pattern):
    """Which two of every four neighbours of a row are used. cols is at least 4.

    Of a dense weight they can be the "largest" magnitudes of each four; "transposable", the best of each 4 x 4 tile that is 2:4
    in its rows and columns; or "soft", the largest ones, moved towards 0 and scaled (see `nm24_prune`).

    Attributes:
        rows, cols: the matrix's shape.
        ids: uint8 [rows, ceil(groups / 2)], see kernels.py.
    """

    BUFFERS = ("ids",)
    SPARSITY = 0.5
    VARIABLE = False
    RULES = ("largest", "transposable", "soft")
    block = (1, 4)

    ids: torch.Tensor

    # ---- of a layer that is being made ----------------------------------------------------------------------------------

    @classmethod
    def obstacle(cls, rows: int, cols: int) -> str | None:
        return f"expected at least 4 weights per output for layout '2:4', got {cols}" if cols < 4 else None

    @classmethod
    def sizes(cls, rows: int, cols: int, sparsity: float, capacity: float | None) -> Sizes:
        if sparsity != 0.5:
            raise ValueError(f"expected sparsity 0.5 (or None) for layout '2:4', got {sparsity}")
        if why := cls.obstacle(rows, cols):
            raise ValueError(why)
        if capacity not in (None, 0.5, 1, 1.0):
            raise ValueError(f"expected capacity 0.5 (packed) or 1.0 (a dense weight) for layout '2:4', got {capacity}")
        length = math.prod(kernels.values_shape(rows, cols))
        check_sizes("2:4", rows, cols, length)
        return Sizes(rows * _used(cols), length, capacity == 1)

    @classmethod
    def empty(cls, rows: int, cols: int, capacity: int, device: torch.device | str | None) -> Nm24Pattern:
        """The first two of four."""
        return cls(rows, cols, torch.full(kernels.ids_shape(rows, cols), 0x44, dtype=torch.uint8, device=device))

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> Nm24Pattern:
        """Groups with fewer than two ones get others; ValueError if one has more than two."""
        pattern = cls.select(mask.float(), 0)
        if bool((outside := mask & ~pattern.mask()).any()):
            row, col = outside.nonzero()[0].tolist()
            four = mask[row, col // 4 * 4 : col // 4 * 4 + 4].int().tolist()
            raise ValueError(f"expected a mask with at most two of every four neighbours of a row, got {four} in row {row}")
        return pattern

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> Nm24Pattern:
        """By the Philox stream `seed`: the same positions on every device."""
        first = cls.empty(rows, cols, 0, device)
        return first.regrown(torch.zeros(first.capacity, dtype=torch.float32, device=device), seed, nnz, nnz)[0]

    @classmethod
    def select(cls, score: torch.Tensor, count: int, *, capacity: int | None = None, rule: str = "largest") -> Nm24Pattern:
        """Always two of four, whatever the count is."""
        _, ids, *_ = kernels.nm24_prune(score.detach(), "transposable" if rule == "transposable" else "largest")
        return cls(score.shape[0], score.shape[1], ids)

    def rule_for(self, dense: torch.Tensor, name: str) -> Rule:
        """The scale of "soft" is <W, S(W)> / <S(W), S(W)>, the one that brings S(W) nearest to W (Hu et al. 2024,
        https://arxiv.org/abs/2409.09099); the others have none. ValueError if values are not finite, and so the scale is not.
        """
        if name != "soft":
            return Rule(name)
        values, ids = kernels.nm24_prune(dense, "soft")
        soft = kernels.nm24_unpack(values, ids, self.cols).double()
        square = float(soft.square().sum())
        scale = float((dense.double() * soft).sum()) / square if square else 1.0
        if not math.isfinite(_float32(scale)):
            raise ValueError(f"expected finite values, from which the rule {name!r} computes its scale, got Inf or NaN")
        return Rule(name, _float32(scale))

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return math.prod(kernels.values_shape(self.rows, self.cols))

    @property
    def nnz(self) -> int:
        if self.rows % 4 or self.cols % 4:  # a transposable tile may choose what does not exist
            return int(count_bits(self._row_bits()))
        return self.rows * _used(self.cols)

    def positions(self) -> torch.Tensor:
        groups = -(-self.cols // 4)
        codes = torch.stack([self.ids & 15, self.ids >> 4], 2).flatten(1)[:, :groups].long()
        first = 4 * torch.arange(groups, device=codes.device)[:, None]
        columns = (first + torch.stack([codes & 3, codes >> 2], 2)).flatten(1)
        at = columns + self.cols * torch.arange(self.rows, device=codes.device)[:, None]
        return at.masked_fill(columns >= self.cols, -1).flatten()

    def mask(self) -> torch.Tensor:
        ones = torch.ones(kernels.values_shape(self.rows, self.cols), dtype=torch.float32, device=self.ids.device)
        return kernels.nm24_unpack(ones, self.ids, self.cols).bool()

    def bits(self) -> torch.Tensor:
        return self._row_bits().flatten() if self.cols % 8 == 0 else super().bits()

    def _row_bits(self) -> torch.Tensor:
        """uint8 [rows, ceil(cols / 8)]: a row's columns from the lowest bit on."""
        masks = _masks_of_codes(self.ids.device)
        bits = masks[(self.ids & 15).int()] | masks[(self.ids >> 4).int()] << 4
        if self.cols % 8:
            bits[:, -1] &= (1 << self.cols % 8) - 1
        return bits

    def check(self, prefix: str = "", rule: Rule | None = None) -> None:
        expected = kernels.ids_shape(self.rows, self.cols)
        if self.ids.dtype is not torch.uint8 or self.ids.shape != expected:
            got = f"{self.ids.dtype} of {tuple(self.ids.shape)}"
            raise ValueError(f"{prefix}ids: expected torch.uint8 of shape {expected}, got {got}")
        kernels.check_codes(prefix + "ids: expected codes", self.ids)
        if rule is not None and rule.name == "transposable":
            ones = torch.nn.functional.pad(self.mask().float(), (0, 0, 0, -self.rows % 4)).unflatten(0, (-1, 4)).sum(1)
            if ones.numel() and int(most := ones.max()) > 2:
                raise ValueError(
                    f"{prefix}ids: expected at most two of every four in a column of transposable tiles, got {int(most)}"
                )

    # ---- changes --------------------------------------------------------------------------------------------------------

    def regrown(self, keep: torch.Tensor, grow: Any, drop: int, count: int) -> tuple[Nm24Pattern, torch.Tensor]:
        """Every group grows as many as it drops (N:M-RigL), so `count` has to be `drop`.

        The last group of a row may have no alternative; then fewer are dropped and grown.
        """
        if drop != count:
            raise ValueError(f"expected as many positions to grow as to drop (two of four stay), got drop {drop}, grow {count}")
        values = keep.view(kernels.values_shape(self.rows, self.cols))
        score, seed = (None, grow) if isinstance(grow, int) else (grow, 0)
        drop = min(drop, self.rows * _droppable(self.cols))
        ids, source = training.nm24_regrow(values, self.ids, self.cols, score, seed, drop)
        return Nm24Pattern(self.rows, self.cols, ids), source

    def kept(self, keep: torch.Tensor, drop: int) -> torch.Tensor:
        """Positions without an alternative stay."""
        fixed = self.positions() % self.cols >= (self.cols if self.cols % 4 == 3 else self.cols // 4 * 4)
        return super().kept(keep.detach().abs().masked_fill(fixed, math.inf), min(drop, self.rows * _droppable(self.cols)))

    def resized(self, capacity: int) -> Nm24Pattern:
        return self

    @classmethod
    def upgraded(cls, prefix: str, rows: int, cols: int, entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Version 1 held int32 `pruning` [2], of a dense weight the number of its rule and the bits of the scale."""
        if "pruning" not in entries:
            return entries
        entries = dict(entries)
        pruning = entries.pop("pruning")
        if pruning.shape != (2,) or pruning.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{prefix}pruning: expected two integers, got {pruning.dtype} of shape {tuple(pruning.shape)}")
        number, bits = pruning.tolist()
        if not (0 <= number < len(_RULES_V1) and -(2**31) <= bits < 2**31):
            raise ValueError(f"{prefix}pruning: expected one of {len(_RULES_V1)} rules and a float32, got {[number, bits]}")
        if "weight" not in entries or entries["weight"].numel() != rows * cols:
            return entries  # packed
        if _RULES_V1[number] == "dense":  # a layout of its own today
            del entries["ids"]
            return entries
        (scale,) = struct.unpack("f", struct.pack("i", bits))
        return {**entries, "rule": Rule(_RULES_V1[number], scale).encoded(pruning.device)}


def _used(cols: int) -> int:
    """Positions that a row uses."""
    return cols // 4 * 2 + min(cols % 4, 2)


def _droppable(cols: int) -> int:
    """Those of a row's that have an alternative: the last four may be one or two."""
    return cols // 4 * 2 + (2 if cols % 4 == 3 else 0)


def _float32(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@cache
def _masks_of_codes(device: torch.device) -> torch.Tensor:
    """For each code, its group's mask."""
    return torch.tensor([(1 << (code & 3) | 1 << (code >> 2)) for code in range(16)], dtype=torch.uint8, device=device)
