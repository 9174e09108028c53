"""The layout "ell": no row is longer than its share. Where the weights fill it, every neuron has the same fan-in, as in SRigL.

ELLPACK (Kincaid et al. 1989) in plain PyTorch; the constraint is that of Lasby et al. 2024, https://arxiv.org/abs/2305.02299.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F

from sparse_ext.ops import Kernels, Layout, Linear, Pattern, register_layout


@dataclass(frozen=True, eq=False)
class EllPattern(Pattern):
    """columns: int32 [rows, width], ascending in a row; `cols` where a slot is unused."""

    BUFFERS = ("columns",)

    columns: torch.Tensor

    @classmethod
    def empty(cls, rows, cols, capacity, device):
        width = -(-capacity // max(1, rows))
        return cls(rows, cols, torch.full((rows, width), cols, dtype=torch.int32, device=device))

    @classmethod
    def from_mask(cls, mask, capacity=None):
        rows, cols = mask.shape
        longest = int(mask.sum(1).max()) if mask.numel() else 0
        pattern = cls.empty(rows, cols, rows * longest if capacity is None else capacity, mask.device)
        width = pattern.columns.shape[1]
        if longest > width:
            raise ValueError(f"expected a mask with at most {width} positions in each row, got {longest} in one")
        columns = torch.where(mask, torch.arange(cols, dtype=torch.int32, device=mask.device), cols)
        pattern.columns[:, :cols] = columns.sort(1).values[:, :width]
        return pattern

    @property
    def capacity(self):
        return self.columns.numel()

    def positions(self):
        first = self.cols * torch.arange(self.rows, device=self.columns.device)[:, None]
        return (first + self.columns).masked_fill(self.columns == self.cols, -1).flatten()

    def grown(self, mask, score, count):
        """A row takes its best positions, as many as it has room for."""
        room = self.columns.shape[1] - mask.sum(1, keepdim=True)
        rank = score.masked_fill(mask, -1.0).argsort(dim=1, descending=True, stable=True).argsort(1)
        return super().grown(mask, score.masked_fill(rank >= room, -1.0), count)

    def check(self, prefix="", rule=None):
        super().check(prefix, rule)
        if ((self.columns < 0) | (self.columns > self.cols)).any():
            raise ValueError(f"{prefix}columns: expected columns from 0 to {self.cols}, got others")


class EllOperands(NamedTuple):
    """All int32. columns: as the pattern's. slot [capacity]: by columns; column c owns slot[begin[c] : begin[c + 1]]."""

    columns: torch.Tensor
    slot: torch.Tensor
    begin: torch.Tensor


class EllLinear(Kernels):
    """By `embedding_bag`: a row of y is a weighted sum of rows of x. The weight gradient is dense; its stored part stays."""

    @staticmethod
    def forward(product, weight, rule, operands, x, bias, relu):
        values, columns = _values(product, weight, rule, operands, x.dtype), operands.columns
        first = columns.shape[1] * torch.arange(product.rows, dtype=torch.int32, device=x.device)
        wide = torch.promote_types(x.dtype, torch.float32)  # y is rounded once
        inputs = F.pad(x.t().to(wide), (0, 0, 0, 1))  # unused slots read zeros
        y = F.embedding_bag(columns.flatten(), inputs, first, mode="sum", per_sample_weights=values.to(wide)).t()
        y = (y if bias is None else y + bias).to(x.dtype).contiguous()
        return y.relu_() if relu else y

    @staticmethod
    def grad_input(product, weight, rule, operands, dy, shape):
        values, (columns, slot, begin) = _values(product, weight, rule, operands, dy.dtype), operands
        row = slot // max(1, columns.shape[1])
        dx = F.embedding_bag(row, dy.t().contiguous(), begin, mode="sum", per_sample_weights=values[slot])
        return dx[: product.cols].t().contiguous()

    @staticmethod
    def grad_weight(product, rule, operands, dy, x, rng):
        dense = product.dense_grad(dy, x)
        return dense.view(-1) if rule is not None else _stored(dense, operands)


def _values(product, weight, rule, operands, dtype):
    """[capacity], what x is multiplied by; of a dense weight the chosen part."""
    return weight if rule is None else _stored(weight.view(product.weight_shape).to(dtype), operands)


def _stored(dense, operands):
    return F.pad(dense, (0, 1)).gather(1, operands.columns.long()).flatten()


@register_layout
class Ell(Layout):
    name = "ell"
    pattern = EllPattern
    operands = EllOperands
    products: ClassVar = {Linear: EllLinear}

    @staticmethod
    def allocate(pattern):
        columns = torch.empty_like(pattern.columns)
        return EllOperands(columns, columns.new_empty(columns.numel()), columns.new_empty(pattern.cols + 1))

    @staticmethod
    def prepare_(operands, pattern):
        by_column, slot = pattern.columns.flatten().sort(stable=True)
        operands.columns.copy_(pattern.columns)
        operands.slot.copy_(slot)
        operands.begin.copy_(torch.searchsorted(by_column, torch.arange(pattern.cols + 1).to(by_column)))
