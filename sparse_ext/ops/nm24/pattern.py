"""`Nm24Pattern`: two of every four neighbours of a row, stored packed or chosen from a dense master."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from . import kernels as nm24
from . import training as nm24_training
from .choice import (
    PRUNINGS,
    bits_of,
    check_stored,
    choose,
    count_bits,
    droppable,
    masks_of_codes,
    pruning_of,
    scale_of,
    soft_scale,
    used,
)
from ..pattern import Pattern, Traits


@dataclass(eq=False)
class Nm24Pattern(Pattern):
    """Which two of every four neighbours of a row are used. cols is at least 4.

    The weight is either *packed*, [rows * 2 * ceil(cols / 4)], what is stored and no more, or a dense *master*,
    [rows * cols], of which every product takes what `choice` says; gradients reach all of it.

    Attributes:
        rows, cols: the matrix's shape.
        ids: uint8 [rows, ceil(groups / 2)], see ops/nm24.py. What is stored, with
        pruning: int32 [2], the index of `choice` in PRUNINGS and the bits of the float32 `scale`;
        codes: a copy of ids, for kernels.
        master: whether the weight is a master.
        choice, scale: what pruning says, on the host.
        draw: int64 [2] or None: key and count of the random numbers that sample the output gradient, see `nm24_mvue`.
    """

    STORED = ("ids", "pruning")
    PRODUCT = "nm24_linear"
    SPARSITY = 0.5

    rows: int
    cols: int
    ids: torch.Tensor
    pruning: torch.Tensor
    codes: torch.Tensor
    master: bool = False
    choice: str = PRUNINGS[0]
    scale: float = 1.0
    draw: torch.Tensor | None = None

    # ---- of a layer that is being made ----------------------------------------------------------------------------------

    @staticmethod
    def obstacle(rows: int, cols: int) -> str | None:
        return f"expected at least 4 input features for layout '2:4', got {cols}" if cols < 4 else None

    @staticmethod
    def sizes(rows: int, cols: int, sparsity: float, capacity: float | None) -> tuple[int, int]:
        if sparsity != 0.5:
            raise ValueError(f"expected sparsity 0.5 (or None) for layout '2:4', got {sparsity}")
        if why := Nm24Pattern.obstacle(rows, cols):
            raise ValueError(why)
        if capacity not in (None, 0.5, 1, 1.0):
            raise ValueError(f"expected capacity 0.5 (packed) or 1.0 (a dense master) for layout '2:4', got {capacity}")
        return rows * used(cols), rows * cols if capacity == 1 else math.prod(nm24.values_shape(rows, cols))

    @staticmethod
    def blank(rows: int, cols: int, room: int, device: torch.device | str | None) -> tuple[torch.Tensor, ...]:
        """The first two of four."""
        ids = torch.full(nm24.ids_shape(rows, cols), 0x44, dtype=torch.uint8, device=device)
        return ids, pruning_of(PRUNINGS[0], 1.0, device)

    @classmethod
    def around(cls, rows: int, cols: int, room: int, *stored: torch.Tensor) -> Nm24Pattern:
        ids, pruning = stored
        pattern = cls(rows, cols, ids, pruning, torch.empty_like(ids), master=room == rows * cols)
        if not ids.is_meta:
            check_stored("pattern: ", ids, pruning, rows, cols)
            pattern.derive_()
        return pattern

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> Nm24Pattern:
        """Groups with fewer than two ones get others; ValueError if one has more than two."""
        rows, cols = mask.shape
        _, ids = nm24.nm24_prune(mask.float(), "largest")
        packed = math.prod(nm24.values_shape(rows, cols))
        pattern = cls.around(
            rows, cols, packed if capacity is None else capacity, ids, pruning_of(PRUNINGS[0], 1.0, mask.device)
        )
        if bool((outside := mask & ~pattern.mask()).any()):
            row, col = outside.nonzero()[0].tolist()
            four = mask[row, col // 4 * 4 : col // 4 * 4 + 4].int().tolist()
            raise ValueError(f"expected a mask with at most two of every four neighbours of a row, got {four} in row {row}")
        return pattern

    def largest(self, dense: torch.Tensor, nnz: int) -> Nm24Pattern:
        """That of each four, or of each tile of transposable ones: `choice` stays."""
        ids = choose(dense, self.choice)
        pruning = pruning_of(self.choice, soft_scale(dense) if self.choice == "soft" else 1.0, dense.device)
        return self.around(self.rows, self.cols, self.capacity, ids, pruning)

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> Nm24Pattern:
        room = math.prod(nm24.values_shape(rows, cols)) if capacity is None else capacity
        ids, pruning = cls.blank(rows, cols, room, device)
        values = torch.zeros(nm24.values_shape(rows, cols), device=device)
        ids, _ = nm24_training.nm24_regrow(values, ids, cols, None, seed, rows * droppable(cols))
        return cls.around(rows, cols, room, ids, pruning)

    # ---- as stored, and as products take it -----------------------------------------------------------------------------

    @property
    def stored(self) -> tuple[torch.Tensor, ...]:
        return self.ids, self.pruning

    @property
    def derived(self) -> tuple[torch.Tensor, ...]:
        return (self.codes,)

    @property
    def traits(self) -> Traits:
        return self.rows, self.cols, self.master, self.choice, self.scale

    @classmethod
    def of_derived(cls, traits: Traits, draw: torch.Tensor | None, *derived: torch.Tensor) -> Nm24Pattern:
        rows, cols, master, choice, scale = traits
        (codes,) = derived
        return cls(rows, cols, codes, codes, codes, master, choice, scale, draw)

    def derive_(self) -> None:
        if self.ids.is_meta:
            return
        self.codes.copy_(self.ids)
        index, bits = self.pruning.tolist()
        self.choice, self.scale = PRUNINGS[index], scale_of(bits)

    def catch_up_(self) -> bool:
        now = [PRUNINGS.index(self.choice), bits_of(self.scale)]
        same = torch.equal(self.codes, self.ids) and self.pruning.tolist() == now
        if not same:
            check_stored("pattern: ", self.ids, self.pruning, self.rows, self.cols)
            self.derive_()
        return not same

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return self.rows * self.cols if self.master else math.prod(nm24.values_shape(self.rows, self.cols))

    @property
    def nnz(self) -> int:
        if self.choice == "transposable" and (self.rows % 4 or self.cols % 4):  # a tile may choose what does not exist
            return int(count_bits(self.bits()))
        return self.rows * (self.cols if self.choice == "dense" else used(self.cols))

    def mask(self) -> torch.Tensor:
        if self.choice == "dense":
            return torch.ones(self.rows, self.cols, dtype=torch.bool, device=self.codes.device)
        ones = torch.ones(nm24.values_shape(self.rows, self.cols), device=self.codes.device)
        return nm24.nm24_unpack(ones, self.codes, self.cols).bool()

    def bits(self) -> torch.Tensor:
        """[rows, ceil(cols / 8)], a row's columns from the lowest bit on."""
        places = torch.full_like(self.codes, 255)
        if self.choice != "dense":
            masks = masks_of_codes(self.codes.device)
            places = masks[(self.codes & 15).int()] | masks[(self.codes >> 4).int()] << 4
        if self.cols % 8:
            places[:, -1] &= (1 << self.cols % 8) - 1
        return places

    def identity(self) -> tuple[torch.Tensor, ...]:
        return self.ids, self.pruning

    # ---- what follows a change -----------------------------------------------------------------------------------------

    def prune_(self, weight: torch.Tensor, choice: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses two of four of a master anew; how many positions are new, and how many are no longer, each int64 [].

        The scale of "soft" is chosen with it and then stays: <W, S(W)> / <S(W), S(W)>, the one that S(W) comes nearest to W by
        (Hu et al. 2024, https://arxiv.org/abs/2409.09099).
        """
        if not self.master or choice not in PRUNINGS:
            raise ValueError(f"expected a dense master (capacity 1.0) and a choice among {PRUNINGS}, got {choice!r}")
        dense, before = weight.view(self.rows, self.cols), self.bits()
        ids = choose(dense, choice)
        if choice == self.choice:  # nothing that the host would have to wait for
            self.ids.copy_(ids)
            self.codes.copy_(ids)
        else:
            scale = soft_scale(dense) if choice == "soft" else 1.0
            self.write_(ids, pruning_of(choice, scale, self.ids.device))
        now = self.bits()
        return count_bits(now & ~before), count_bits(before & ~now)

    def entries(self, weight: torch.Tensor, nnz: int) -> torch.Tensor:
        return weight

    def clear_unused_(self, weight: torch.Tensor) -> None:
        if not self.master and self.cols % 4 == 1:  # the second of a group that has one column
            weight.view(self.rows, -1)[:, -1] = 0

    def regrown(
        self, weight: torch.Tensor, score: Any, stream: int, drop: int, grow: int
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Every group grows as many as it drops (N:M-RigL)."""
        values = weight.view(nm24.values_shape(self.rows, self.cols))
        drop = min(drop, self.rows * droppable(self.cols))
        ids, source = nm24_training.nm24_regrow(values, self.ids, self.cols, score, stream, drop)
        return (ids, self.pruning), source

    def enlarged(self, room: int) -> tuple[torch.Tensor, ...]:
        return self.stored

    def lengthened(self, values: torch.Tensor, room: int) -> torch.Tensor:
        """The packed numbers at their places in a master."""
        return nm24.nm24_unpack(values.view(nm24.values_shape(self.rows, self.cols)), self.codes, self.cols).view(room)

    def adopted(self, prefix: str, weight: torch.Tensor | None, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Also a packed weight for a master, 0 elsewhere, and for a packed one what a master's products take."""
        ids, pruning = stored["ids"], stored["pruning"]
        check_stored(prefix, ids, pruning, self.rows, self.cols)
        lengths = (self.rows * self.cols, math.prod(nm24.values_shape(self.rows, self.cols)))
        if weight is None or weight.shape == (self.capacity,):
            return stored if weight is None else {**stored, "weight": weight}
        if weight.dim() != 1 or weight.numel() not in lengths:
            raise ValueError(f"{prefix}weight: expected {lengths[0]} or {lengths[1]} values, got {tuple(weight.shape)}")
        theirs = Nm24Pattern.around(self.rows, self.cols, weight.numel(), ids, pruning)
        # By way of a dtype that every device's kernels have.
        wide = weight if weight.dtype == torch.float64 else weight.float()
        if not theirs.master:
            return {**stored, "weight": theirs.lengthened(wide, lengths[0]).to(weight.dtype)}
        if theirs.choice == "dense":
            raise ValueError(f"{prefix}weight: expected two of four for a packed layer, got all of a dense master")
        fresh = self.from_mask(theirs.mask())  # a tile may have chosen what does not exist
        dense = nm24.nm24_unpack(*packed(wide, theirs, wide.dtype), self.cols)
        (values,) = nm24.nm24_pack(dense, fresh.ids)
        return {"ids": fresh.ids, "pruning": fresh.pruning, "weight": values.view(-1).to(weight.dtype)}


def packed(weight: torch.Tensor, pattern: Nm24Pattern, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """values, a master's of this dtype, and ids of what products take of a weight; not of a "dense" one."""
    if not pattern.master:
        return weight.view(nm24.values_shape(pattern.rows, pattern.cols)), pattern.codes
    dense = weight.view(pattern.rows, pattern.cols)
    if pattern.choice == "soft":
        values, ids = nm24.nm24_prune.call(dense, "soft", dtype, pattern.scale)
        return values, ids
    (values,) = nm24.nm24_pack.call(dense, pattern.codes, False, dtype)
    return values, pattern.codes
