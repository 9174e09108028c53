"""`MaskedPattern`: any positions, one bit for each; the weight has room for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..boundary.checks import check_sizes
from ..csr.pattern import CsrPattern
from ..dense_grad import Sink
from ..pattern import Pattern, Sizes, count_bits
from ..regrow.candidates import CandidateSink
from ..rule import Rule


@dataclass(frozen=True, eq=False)
class MaskedPattern(Pattern):
    """The mask of a matrix whose weight is packed at full length: position p is slot p, and slots outside the mask are unused.

    What is selected, drawn and regrown is what a `CsrPattern` would: the same positions, bit for bit.

    Attributes:
        rows, cols: the matrix's shape.
        mask_bits: uint8 [ceil(rows * cols / 8)]; position 8 i + j is bit j of byte i. Bits behind the last position are 0.
    """

    BUFFERS = ("mask_bits",)

    mask_bits: torch.Tensor

    @classmethod
    def empty(cls, rows: int, cols: int, capacity: int, device: torch.device | str | None) -> MaskedPattern:
        check_sizes("masked", rows, cols, rows * cols)
        return cls(rows, cols, torch.zeros(-(-rows * cols // 8), dtype=torch.uint8, device=device))

    @classmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> MaskedPattern:
        rows, cols = mask.shape
        check_sizes("masked", rows, cols, rows * cols)
        whole = torch.nn.functional.pad(mask.reshape(-1).to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
        bits = torch.zeros(whole.shape[0], dtype=torch.uint8, device=mask.device)
        for place in range(8):
            bits |= whole[:, place] << place
        return cls(rows, cols, bits)

    @classmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> MaskedPattern:
        return cls.from_mask(CsrPattern.random(rows, cols, nnz, seed, device).mask())

    @classmethod
    def select(cls, score: torch.Tensor, count: int, *, capacity: int | None = None, rule: str = "largest") -> MaskedPattern:
        return cls.from_mask(CsrPattern.select(score, count).mask())

    @classmethod
    def sizes(cls, rows: int, cols: int, sparsity: float, capacity: float | None) -> Sizes:
        return super().sizes(rows, cols, sparsity, capacity)._replace(capacity=rows * cols)

    @property
    def capacity(self) -> int:
        return self.rows * self.cols

    @property
    def nnz(self) -> int:
        return int(count_bits(self.mask_bits))

    def positions(self) -> torch.Tensor:
        every = torch.arange(self.rows * self.cols, device=self.mask_bits.device)
        return every.masked_fill(~self.mask().view(-1), -1)

    def mask(self) -> torch.Tensor:
        mask = torch.empty(self.mask_bits.numel(), 8, dtype=torch.bool, device=self.mask_bits.device)
        for place in range(8):
            mask[:, place] = (self.mask_bits >> place) & 1
        return mask.view(-1)[: self.rows * self.cols].view(self.rows, self.cols)

    def bits(self) -> torch.Tensor:
        return self.mask_bits.clone()

    def check(self, prefix: str = "", rule: Rule | None = None) -> None:
        self.check_form(prefix)
        positions = self.rows * self.cols
        if positions % 8 and (last := int(self.mask_bits[-1])) >> positions % 8:
            raise ValueError(f"{prefix}mask_bits: expected no bits behind {positions} positions, got {last} in the last byte")

    def regrown(self, keep: torch.Tensor, grow: Any, drop: int, count: int) -> tuple[MaskedPattern, torch.Tensor]:
        """By `CsrPattern.regrown`; `grow` may be the candidates of `growth_sink`."""
        before = self.mask()
        stored = keep.reshape(-1)[before.view(-1)]
        room = max(0, count - drop)
        entries = CsrPattern.from_mask(before, stored.numel() + room)
        regrown, _ = entries.regrown(torch.cat([stored, stored.new_zeros(room)]), grow, drop, count)
        after = regrown.mask()
        every = torch.arange(self.capacity, device=after.device)
        return self.from_mask(after), every.masked_fill(~(before & after).view(-1), -1)

    @staticmethod
    def growth_sink(weight: torch.Tensor, pattern: Callable[[], Any], count: int) -> Sink:
        return CandidateSink(weight, lambda: CsrPattern.from_mask(pattern().mask()), count)

    def resized(self, capacity: int) -> MaskedPattern:
        return self
