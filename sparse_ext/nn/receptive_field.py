"""`receptive_field`: random patterns in which every row has equally many positions, and most of them near its own place."""

from __future__ import annotations

import torch

from sparse_ext.ops import drawn


def receptive_field(rows: int, cols: int, spread: float, seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """A score whose n largest elements are n random positions: n / rows in every row, and one more in some of them.

    The rows lie evenly along the columns, and these in a ring. Without replacement, a row takes columns with chances in
    proportion to (1 + distance) ** ((spread - 1) / spread): at 0 the nearest, at 1 any of them. This is the bipartite receptive
    field of Zhang et al. 2025, https://arxiv.org/abs/2501.19107, with a fixed degree of the outputs.

    Args:
        spread: r, in [0, 1].

    Returns:
        float64 [rows, cols], above 0.
    """
    place = torch.arange(rows, device=device) * cols // max(1, rows)
    distance = (torch.arange(cols, device=device) - place[:, None]).abs()
    near = (1.0 + torch.minimum(distance, cols - distance).double()).reciprocal()
    if spread > 0:
        near = drawn(near, (1.0 - spread) / spread, seed)
    before = near.argsort(dim=1, descending=True, stable=True).argsort(1)  # in its row
    first = drawn(torch.ones(rows, dtype=torch.float64, device=device), 0.0, ~seed)  # of the rows, for what is left over
    return cols - before + first[:, None] / 2
