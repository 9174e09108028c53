"""`Product`: the operation of a layer. It knows shapes, not layouts; a layout has `Kernels` for each product it supports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .rule import Rule

# Elements in a tile: it should fit the last-level cache of a CPU; on a GPU it should fill the device and fit the L2 cache.
TILE = {"cpu": 1 << 21, "cuda": 1 << 22}


class Linear(NamedTuple):
    """y [..., rows] = x [..., cols] W^T + bias for a weight W [rows, cols], as `torch.nn.functional.linear`."""

    rows: int
    cols: int

    @property
    def name(self) -> str:
        """As in error messages: "csr_linear"."""
        return "linear"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return (self.rows, self.cols)

    def batched(self, op: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """x as [tokens, cols], and its leading dimensions; ValueError unless its last one is `cols`."""
        if x.dim() == 0 or x.shape[-1] != self.cols:
            raise ValueError(
                f"{op}: expected x with {self.cols} columns (weight has {self.cols} input features), got shape {tuple(x.shape)}"
            )
        # Not reshape: the number of tokens would have to be known, and a compiler would fix it.
        return x.flatten(0, -2) if x.dim() > 1 else x[None], x.shape[:-1]

    def unbatched(self, y: torch.Tensor, lead: torch.Size) -> torch.Tensor:
        """y [tokens, rows] with x's leading dimensions."""
        return y.view(*lead, self.rows)

    def grad_bias(self, dy: torch.Tensor) -> torch.Tensor:
        """[rows] of dy [tokens, rows]."""
        return dy.sum(0)

    def dense_grad(self, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The dense weight gradient dy^T x, [rows, cols]."""
        return dy.t() @ x

    def dense_grad_tiles(
        self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype
    ) -> Iterator[tuple[range, torch.Tensor]]:
        """The sum of dy^T x over pairs (dy, x), in tiles of whole rows: yields (rows, tile [len(rows), cols]).

        The next tile overwrites the last one, so the whole dense gradient is never in memory.
        """
        if not pairs:
            return
        wide = [(dy, x.to(dtype)) for dy, x in pairs]
        memory = wide[0][1].new_empty((min(self.rows, tile_rows(wide[0][1].device, self.cols)), self.cols))
        for first in range(0, self.rows, max(1, len(memory))):
            rows = range(first, min(first + len(memory), self.rows))
            tile = memory[: len(rows)]
            for number, (dy, x) in enumerate(wide):
                part = dy[:, rows.start : rows.stop].to(dtype).t()
                torch.mm(part, x, out=tile) if number == 0 else tile.addmm_(part, x)
            yield rows, tile


Product = Linear  # the union of all products


class Kernels(ABC):
    """One layout's kernels for one product: the forward pass and both gradients.

    weight is 1-D. Without a `rule` it is packed, [capacity], and of x's dtype. With one it is dense, [rows * cols], and
    products use the pattern's part of it, cast to x's dtype. operands is the layout's NamedTuple. x has been checked to have
    `cols` columns. The functions are called inside an autograd function, which `torch.compile` may trace.
    """

    @staticmethod
    @abstractmethod
    def forward(
        product: Any,
        weight: torch.Tensor,
        rule: Rule | None,
        operands: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        """y [tokens, rows] of x [tokens, cols]; then relu, if `relu`."""

    @staticmethod
    @abstractmethod
    def grad_input(product: Any, weight: torch.Tensor, rule: Rule | None, operands: Any, dy: torch.Tensor) -> torch.Tensor:
        """dx [tokens, cols]."""

    @staticmethod
    @abstractmethod
    def grad_weight(
        product: Any, rule: Rule | None, operands: Any, dy: torch.Tensor, x: torch.Tensor, rng: torch.Tensor | None
    ) -> torch.Tensor:
        """dw, of the weight's shape: at the pattern, or everywhere for a dense weight (straight-through).

        Args:
            rng: int64 [2], (seed, offset), to sample the output gradient; it adds 1 to offset. None: dw is exact.
        """


def tile_rows(device: torch.device, cols: int) -> int:
    """How many rows of a [rows, cols] matrix are a tile."""
    return max(1, TILE.get(device.type, TILE["cuda"]) // max(1, cols))
