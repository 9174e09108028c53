"""`LinkPrediction`: a signal that needs no gradient: which connections a layer's own topology predicts (CH2-L3n)."""

from __future__ import annotations

import torch

from .signals import Signal

UNLINKED = 1e-30  # the score of a position that no path predicts: below all others, and above nothing
_TILE = 1 << 22  # elements of the [rows, rows] and [cols, cols] matrices that are held at once


class LinkPrediction(Signal):
    """CH2-L3n of a layer's mask (Zhang et al. 2025, https://arxiv.org/abs/2501.19107), see `link_scores`.

    Where no path of length 3 leads, the score is UNLINKED, so that random growth reaches such positions when no others are
    left, all with the same chance.
    """

    name = "links"
    OBSERVES = False

    def score(self) -> torch.Tensor:
        return link_scores(self.layer.mask()).clamp_(min=UNLINKED)


def link_scores(mask: torch.Tensor) -> torch.Tensor:
    """How strongly a bipartite graph predicts each of its missing links.

    A row r and a column c that are not linked are joined by paths r - z - y - c. y is a row that shares columns with r; z is a
    column that shares rows with c. The score is the sum of s(r, y) over the rows y that are linked to c, and of s(c, z) over
    the columns z that are linked to r. With n neighbours that both have, s(a, b) = (n + 1) / max(1, degree(b) - n), and 0 where
    n = 0: many internal links of the local community, and few external ones (Muscoloni et al. 2020, "CH2-L3").

    It takes 4 rows cols (rows + cols) FLOPs in float64, and about 24 bytes for each position, however sparse the mask is.
    s is rounded to multiples of a power of 2, to 50 bits less those that count the positions. So sums are exact: the same on
    every device, and with any number of threads.

    Args:
        mask: bool [rows, cols].

    Returns:
        float64 [rows, cols], 0 at the links.
    """
    links = mask.double()
    rows, cols = mask.shape
    unit = 2.0 ** (50 - (rows * cols + rows + cols).bit_length())
    scores = _similar(links, unit)
    scores += _similar(links.t(), unit).t()
    return scores.masked_fill_(mask, 0)


def _similar(links: torch.Tensor, unit: float) -> torch.Tensor:
    """[nodes, others]: of each node and one of the other kind, the sum of s(node, b) over the nodes b linked to that one."""
    degree = links.sum(1)
    sums = torch.empty_like(links)
    step = max(1, _TILE // max(1, links.shape[0]))
    for first in range(0, links.shape[0], step):
        shared = links[first : first + step] @ links.t()
        similar = (shared + 1) / (degree - shared).clamp_(min=1)
        similar.mul_(unit).round_().div_(unit)
        sums[first : first + step] = similar.masked_fill_(shared == 0, 0) @ links
    return sums
