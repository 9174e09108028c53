"""`Pattern`: which positions of a matrix are stored. It consists of plain tensors and knows neither kernels nor values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch

from .rule import Rule

if TYPE_CHECKING:
    from .dense_grad import Sink

P = TypeVar("P", bound="Pattern")


class Sizes(NamedTuple):
    """A new layer's number of stored positions, packed weight's length, and whether it has a dense weight instead."""

    nnz: int
    capacity: int
    dense_weight: bool = False


@dataclass(frozen=True, eq=False)
class Pattern(ABC):
    """The stored positions of a [rows, cols] matrix.

    A subclass is a frozen dataclass (eq=False) whose fields are `rows`, `cols` and the tensors that a checkpoint holds, in the
    order of BUFFERS. It must define `empty`, `from_mask`, `capacity` and `positions`. It also defines `grown` if it cannot hold
    every mask, and `check` if its tensors may hold invalid values. The rest is derived; override it where that is faster.

    Attributes:
        BUFFERS: names of the tensors. Their shapes do not depend on which positions are stored.
        SPARSITY: default share of zeros in a new layer.
        VARIABLE: whether a layer may have another sparsity.
        RULES: names of the rules that can choose positions of a dense weight.
        REGROWS: whether `regrown` is possible.
        block: (rows, cols) of the block whose positions are chosen together, such as (1, 4) for 2:4.
    """

    BUFFERS: ClassVar[tuple[str, ...]]
    SPARSITY: ClassVar[float] = 0.9
    VARIABLE: ClassVar[bool] = True
    RULES: ClassVar[tuple[str, ...]] = ("largest",)
    REGROWS: ClassVar[bool] = True
    block: ClassVar[tuple[int, int]] = (1, 1)

    rows: int
    cols: int

    # ---- what a subclass defines ----------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def empty(cls: type[P], rows: int, cols: int, capacity: int, device: torch.device | str | None) -> P:
        """A valid pattern to be overwritten, for a weight of this length or the next possible one. Works on "meta", too."""

    @classmethod
    @abstractmethod
    def from_mask(cls: type[P], mask: torch.Tensor, capacity: int | None = None) -> P:
        """The pattern of a bool mask [rows, cols]; capacity None: as needed. ValueError if the mask does not fit."""

    @classmethod
    def of_buffers(
        cls: type[P], rows: int, cols: int, buffers: dict[str, torch.Tensor], device: torch.device | str | None
    ) -> P:
        """The pattern made of these tensors, unchecked; device: the weight's."""
        return cls(rows, cols, *(buffers[name] for name in cls.BUFFERS))

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Length of the packed weight."""

    @abstractmethod
    def positions(self) -> torch.Tensor:
        """int64 [capacity]: the linear index r * cols + c of every slot of the packed weight, -1 where it is unused."""

    # ---- of a layer that is being made ----------------------------------------------------------------------------------

    @classmethod
    def obstacle(cls, rows: int, cols: int) -> str | None:
        """Why no matrix of this shape can have such a pattern; None: it can."""
        return None

    @classmethod
    def holds_any(cls) -> bool:
        """Whether any positions can be stored, however many of them there are in a row."""
        return cls.VARIABLE and cls.REGROWS and cls.grown is Pattern.grown

    @classmethod
    def sizes(cls, rows: int, cols: int, sparsity: float, capacity: float | None) -> Sizes:
        """The sizes of a layer; sparsity and capacity are shares of rows * cols. ValueError if it is impossible."""
        nnz = round((1.0 - sparsity) * rows * cols)
        fits = capacity is None or 0.0 <= capacity <= 1.0  # False for NaN
        length = nnz if capacity is None or not fits else round(capacity * rows * cols)
        if not fits or length < nnz:
            raise ValueError(f"expected capacity (a density) in [{1.0 - sparsity:.6g}, 1], got {capacity}")
        return Sizes(nnz, length)

    @classmethod
    def random(
        cls: type[P], rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> P:
        """nnz random positions, without replacement, determined by `seed`."""
        return cls.select(_random(rows, cols, seed, device), nnz, capacity=capacity)

    @classmethod
    def select(cls: type[P], score: torch.Tensor, count: int, *, capacity: int | None = None, rule: str = "largest") -> P:
        """The `count` positions of largest |score| [rows, cols]; ties go to the lower linear index, NaN counts as Inf."""
        rows, cols = score.shape
        nothing = cls.empty(rows, cols, count if capacity is None else capacity, score.device)
        mask = nothing.grown(torch.zeros_like(score, dtype=torch.bool), magnitude(score), count)
        return cls.from_mask(mask, nothing.capacity)

    def rule_for(self, dense: torch.Tensor, name: str) -> Rule:
        """The rule of this name, with its scale, for a dense weight [rows, cols] that was pruned to this pattern."""
        return Rule(name)

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """{name: tensor}, in the order of BUFFERS."""
        return {name: getattr(self, name) for name in self.BUFFERS}

    @property
    def nnz(self) -> int:
        """Number of stored positions. Synchronises on CUDA."""
        return int((self.positions() >= 0).sum())

    def mask(self) -> torch.Tensor:
        """Boolean [rows, cols], True at the stored positions."""
        at = self.positions()
        mask = torch.zeros(self.rows * self.cols, dtype=torch.bool, device=at.device)
        mask[at[at >= 0]] = True
        return mask.view(self.rows, self.cols)

    def bits(self) -> torch.Tensor:
        """uint8 [ceil(rows * cols / 8)]: the mask as bits; position 8 i + j is bit j of byte i."""
        at = self.positions()
        return bits_at(at[at >= 0], self.rows * self.cols)

    def check(self, prefix: str = "", rule: Rule | None = None) -> None:
        """Reads every index. ValueError, beginning with `prefix`, unless the pattern is valid and possible under `rule`."""
        self.check_form(prefix)
        at = self.positions()
        used = at[at >= 0]
        if used.numel() and (int(used.max()) >= self.rows * self.cols or used.unique().numel() < used.numel()):
            raise ValueError(
                f"{prefix}pattern: expected different positions below {self.rows * self.cols}, got {used[:9].tolist()}"
            )

    def check_form(self, prefix: str) -> None:
        """ValueError, beginning with `prefix`, unless the tensors have the dtypes and shapes of such a pattern's."""
        for name, like in self.empty(self.rows, self.cols, self.capacity, "meta").buffers.items():
            got = self.buffers[name]
            if got.dtype is not like.dtype or got.shape != like.shape:
                expected = f"{like.dtype} of shape {tuple(like.shape)}"
                raise ValueError(f"{prefix}{name}: expected {expected}, got {got.dtype} of {tuple(got.shape)}")

    # ---- changes --------------------------------------------------------------------------------------------------------

    def regrown(self: P, keep: torch.Tensor, grow: Any, drop: int, count: int) -> tuple[P, torch.Tensor]:
        """Drops the `drop` stored positions of smallest |keep|, then grows the `count` others of largest |grow|.

        Candidates for growth are all positions that are not kept, just-dropped ones included (Evci et al. 2020, "Rigging the
        Lottery", Algorithm 1). Ties go to the lower linear index.

        Args:
            keep: [capacity], ranks the stored positions; for example the weight.
            grow: ranks the others: a dense score [rows, cols], or what `growth_sink` kept, or the seed (int) of random growth.

        Returns:
            The new pattern, and the slot map [capacity]: the old slot of each slot, -1 if its position is new or it is unused.
        """
        at = self.positions()
        score = grow
        if isinstance(grow, int):
            score = _random(self.rows, self.cols, grow % 2**63, at.device)
        mask = self.grown(self.kept(keep, drop), magnitude(score), count)
        new = self.from_mask(mask, self.capacity)
        return new, slot_map(at, new.positions())

    def kept(self, keep: torch.Tensor, drop: int) -> torch.Tensor:
        """bool [rows, cols]: the stored positions without the `drop` of smallest |keep| [capacity], as `regrown` keeps them."""
        at = self.positions()
        used = (at >= 0).nonzero().squeeze(1)
        if not 0 <= drop <= used.numel():
            raise ValueError(f"expected drop between 0 and nnz = {used.numel()}, got {drop}")
        kept = torch.zeros(self.rows * self.cols, dtype=torch.bool, device=at.device)
        kept[at[used[largest(keep[used], used.numel() - drop)]]] = True
        return kept.view(self.rows, self.cols)

    def grown(self, mask: torch.Tensor, score: torch.Tensor, count: int) -> torch.Tensor:
        """The mask [rows, cols] with `count` more positions, of largest score; ties go to the lower linear index.

        A pattern that cannot hold every mask overrides this and adds the best positions that it can hold.

        Args:
            score: float64 [rows, cols]; below 0 where nothing may grow.
        """
        score = score.masked_fill(mask, -1.0)
        free = int((score >= 0).sum())
        if not 0 <= count <= free:
            raise ValueError(f"expected grow between 0 and {free} (positions that are free, with room for them), got {count}")
        return mask | largest(score.flatten(), count, signed=True).view_as(mask)

    @staticmethod
    def growth_sink(weight: torch.Tensor, pattern: Callable[[], Any], count: int) -> Sink | None:
        """A sink that keeps of a dense gradient only what `regrown` needs to grow `count` positions; None: there is none.

        Args:
            weight: whose gradient it receives. pattern: returns the weight's pattern when called.
        """
        return None

    def resized(self: P, capacity: int) -> P:
        """The same positions, for a packed weight of this length."""
        return self.from_mask(self.mask(), capacity)

    @classmethod
    def upgraded(cls, prefix: str, rows: int, cols: int, entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Converts a layer's checkpoint entries from the form of earlier versions to the present one."""
        return entries


def _random(rows: int, cols: int, seed: int, device: torch.device | str) -> torch.Tensor:
    """A random score [rows, cols], determined by the seed: whatever the defaults for devices and dtypes are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, cols, generator=generator, dtype=torch.float32, device="cpu").to(device)


def magnitude(score: torch.Tensor) -> torch.Tensor:
    """|score| as a new float64 tensor in which NaN is Inf."""
    return score.detach().abs().double().nan_to_num(math.inf, math.inf)


def largest(score: torch.Tensor, count: int, signed: bool = False) -> torch.Tensor:
    """Mask of the `count` largest magnitudes (signed: values) of a 1-D tensor; ties go to the lower index, NaN is largest.

    In linear time, without a sort.
    """
    rank = score if signed else score.abs()
    if not 0 < count < rank.numel():
        return torch.full_like(rank, count > 0, dtype=torch.bool)
    least = rank.kthvalue(rank.numel() - count + 1).values  # of those that are taken
    above = (rank > least) | (rank.isnan() & ~least.isnan())
    ties = (rank == least) | (rank.isnan() & least.isnan())
    return above | (ties & (ties.cumsum(0) <= count - above.sum()))


def slot_map(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """For each position in `new` its index in `old`, or -1 if it is not there; both int64, -1 in unused slots."""
    if not old.numel():
        return torch.full_like(new, -1)
    ascending, order = old.sort()
    at = torch.searchsorted(ascending, new).clamp_(max=old.numel() - 1)
    return torch.where((new >= 0) & (ascending[at] == new), order[at], -1)


def taken(values: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Moves values along a slot map, to a new tensor: element q is values[source[q]], or 0 where source[q] is -1."""
    source = source.to(values.device)
    if not values.numel():
        return values.new_zeros(source.shape)
    return torch.where(source >= 0, values[source.clamp(min=0).long()], values.new_zeros(()))


def bits_at(positions: torch.Tensor, count: int) -> torch.Tensor:
    """uint8 [ceil(count / 8)] with the bits of these positions set; no position may occur twice."""
    bits = torch.zeros(-(-count // 8), dtype=torch.uint8, device=positions.device)
    places = torch.bitwise_left_shift(torch.ones_like(positions), positions % 8).to(torch.uint8)
    return bits.index_add_(0, positions // 8, places)


@cache
def _ones(device: torch.device) -> torch.Tensor:
    """For each byte, how many of its bits are 1."""
    return torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8, device=device)


def count_bits(bits: torch.Tensor) -> torch.Tensor:
    """How many bits are 1, int64 []."""
    return _ones(bits.device)[bits.int()].sum(dtype=torch.int64)
