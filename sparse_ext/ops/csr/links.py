"""`link_scores`: which missing connections the topology of a sparse layer predicts."""

from __future__ import annotations

import torch

from .kernels import csr_spmm
from .pattern import CsrPattern

_TILE = 1 << 22  # elements of the [rows, rows] and [cols, cols] matrices that are held at once


@torch.no_grad()
def link_scores(mask: torch.Tensor) -> torch.Tensor:
    """CH2-L3n: how strongly a bipartite graph predicts each of its missing links (Zhang et al. 2025,
    https://arxiv.org/abs/2501.19107, section 3.1).

    A row r and a column c that are not linked are joined by paths r - z - y - c. y is a row that shares columns with r; z is a
    column that shares rows with c. The score is the sum of s(r, y) over the rows y that are linked to c, and of s(c, z) over
    the columns z that are linked to r. With n neighbours that both have, s(a, b) = (n + 1) / max(1, degree(b) - n), and 0 where
    n = 0: local communities with many links inside, and few to the outside.

    It takes 4 nnz (rows + cols) FLOPs in float64, and about 24 bytes for each position. s is rounded to multiples of 2 ** -k,
    with k = 50 - the bits of rows * cols + rows + cols. So sums are exact: they are the same on every device, and with any
    number of threads.

    Args:
        mask: bool [rows, cols].

    Returns:
        float64 [rows, cols], 0 at the links.
    """
    rows, cols = mask.shape
    other = mask.t().contiguous()
    links, back = CsrPattern.from_mask(mask), CsrPattern.from_mask(other)
    # Of the 53 bits of an integer: a sum is at most rows * (cols + 1), or cols * (rows + 1), and the score is two sums.
    unit = 2.0 ** (50 - (rows * cols + rows + cols).bit_length())
    scores = _similar(mask, links, back, unit)
    scores += _similar(other, back, links, unit).t()
    return scores.masked_fill_(mask, 0)


def _similar(mask: torch.Tensor, links: CsrPattern, back: CsrPattern, unit: float) -> torch.Tensor:
    """[nodes, others]: of each node and one of the other kind, the sum of s(node, b) over the nodes b linked to that one.

    back: the transpose of the mask's links.
    """
    nodes, degree = mask.shape[0], mask.sum(1)
    sums = torch.empty(mask.shape, dtype=torch.float64, device=mask.device)
    step = max(1, _TILE // max(1, nodes))
    for first in range(0, nodes, step):
        shared = _times(mask[first : first + step].double(), links)
        similar = (shared + 1) / (degree - shared).clamp_(min=1)
        similar.mul_(unit).round_().div_(unit)
        sums[first : first + step] = _times(similar.masked_fill_(shared == 0, 0), back)
    return sums


def _times(x: torch.Tensor, links: CsrPattern) -> torch.Tensor:
    """x [any, links.cols] times the transpose of the 0/1 matrix of these links."""
    return csr_spmm(x.new_ones(links.capacity), links.row_ptr, links.col_idx, links.cols, x, None)
