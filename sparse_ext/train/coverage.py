"""`Coverage`: which positions of a layer were ever in use, in memory proportional to how many these are."""

from __future__ import annotations

import numpy as np
import torch

from sparse_ext.ops import Pattern
from sparse_ext.ops.pattern import bits_at, count_bits

_BITS = 64  # of a position in a list: from one position in so many on, a bit for each position takes less


class Coverage:
    """The positions that were ever in use: listed while they are few, then as one bit for each position.

    So it takes 8 bytes for each position that was ever in use, or rows * cols / 8 bytes if that is less. It stays on the
    layer's device.
    """

    def __init__(self, pattern: Pattern, length: int) -> None:
        """Of a layer with this pattern and a weight of this length."""
        self._shape = (pattern.rows, pattern.cols)
        # A weight that is not short gets bits at once: a longer list has to wait for the device.
        self._ever = _listed(pattern) if self._is_short(length) else pattern.bits()

    def _is_short(self, count: int) -> bool:
        """Whether a list of so many positions takes less memory than bits."""
        return _BITS * count < self._shape[0] * self._shape[1]

    def add(self, pattern: Pattern) -> None:
        """The layer has this pattern now."""
        if self._ever.dtype is torch.uint8:
            bits = pattern.bits()
            self._ever = self._ever.to(bits.device) | bits  # the model may be on another device by now
            return
        now = _listed(pattern)
        ever = torch.cat([self._ever.to(now.device), now]).unique()
        self._ever = ever if self._is_short(ever.numel()) else bits_at(ever, self._shape[0] * self._shape[1])

    def mask(self) -> torch.Tensor:
        """bool [rows, cols], True where a position was ever in use."""
        count = self._shape[0] * self._shape[1]
        if self._ever.dtype is torch.int64:
            mask = torch.zeros(count, dtype=torch.bool, device=self._ever.device)
            mask[self._ever] = True
            return mask.view(self._shape)
        places = torch.arange(8, dtype=torch.uint8, device=self._ever.device)
        return (self._ever[:, None] >> places & 1).bool().flatten()[:count].view(self._shape)

    def count(self) -> int:
        """How many positions were ever in use."""
        if self._ever.dtype is torch.int64:
            return self._ever.numel()
        return int(count_bits(self._ever))

    def state(self) -> torch.Tensor:
        """A copy on the CPU: int64 positions, ascending; or uint8 bits, as `Pattern.bits`."""
        return self._ever.cpu().clone()

    def load(self, state: torch.Tensor) -> None:
        """What `state` gave. Version 1 padded every row of "2:4": [rows, ceil(cols / 8)]."""
        if state.dim() == 2:
            bits = np.unpackbits(state.cpu().numpy(), axis=1, bitorder="little")[:, : self._shape[1]]
            state = torch.from_numpy(np.packbits(bits.reshape(-1), bitorder="little"))
        self._ever = state.to(self._ever.device, copy=True)


def _listed(pattern: Pattern) -> torch.Tensor:
    """int64, the positions in use."""
    at = pattern.positions()
    return at[at >= 0]


def check_coverage(name: str, state: torch.Tensor, rows: int, cols: int) -> None:
    """ValueError unless this is a coverage's state for a [rows, cols] matrix."""
    size, got = -(-rows * cols // 8), f"{state.dtype} of shape {tuple(state.shape)}"
    if state.dtype is torch.uint8 and tuple(state.shape) in ((size,), (rows, -(-cols // 8))):
        return
    if state.dtype is torch.int64 and state.dim() == 1:
        edges = torch.cat([state.new_tensor([-1]), state, state.new_tensor([rows * cols])])
        if int(edges.diff().min()) > 0:
            return
        got = f"{state[:9].tolist()}"
    raise ValueError(
        f"expected coverage of {name!r} as {size} bytes of bits, or as ascending positions below {rows * cols}, got {got}"
    )
