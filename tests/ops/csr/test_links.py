"""CH2-L3n by hand, by a loop over paths of length 3, and to the last bit however it is computed."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_ext.ops import link_scores
from sparse_ext.ops.csr import links


def test_by_hand():
    """Rows 0: {0, 1}, 1: {1, 2}, 2: {0, 1, 2, 3}.

    Common neighbours of rows: (0, 1): 1, (0, 2): 2, (1, 2): 2. Degrees of rows: 2, 2, 4.
        s(0, 1) = (1 + 1) / (2 - 1) = 2     s(0, 2) = (2 + 1) / (4 - 2) = 3/2
        s(1, 0) = (1 + 1) / (2 - 1) = 2     s(1, 2) = (2 + 1) / (4 - 2) = 3/2
    Common neighbours of columns: (0, 1): 2, (0, 2): 1, (0, 3): 1, (1, 2): 2, (1, 3): 1, (2, 3): 1. Degrees: 2, 3, 2, 1.
        s(0, 1) = 3 / max(1, 3 - 2) = 3     s(2, 0) = 2 / (2 - 1) = 2           s(3, 0) = 2 / (2 - 1) = 2
        s(0, 2) = 2 / (2 - 1) = 2           s(2, 1) = 3 / max(1, 3 - 2) = 3     s(3, 1) = 2 / (3 - 1) = 1
                                                                                s(3, 2) = 2 / (2 - 1) = 2
    Missing links:
        (0, 2): rows linked to column 2 are 1 and 2:     2 + 3/2; columns linked to row 0 are 0 and 1: s(2, 0) + s(2, 1) = 5
        (0, 3): row 2:                                   3/2;     s(3, 0) + s(3, 1) = 3
        (1, 0): rows 0 and 2:                            2 + 3/2; columns 1 and 2: s(0, 1) + s(0, 2) = 5
        (1, 3): row 2:                                   3/2;     s(3, 1) + s(3, 2) = 3
    """
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    expected = [[0, 0, 8.5, 4.5], [8.5, 0, 0, 4.5], [0, 0, 0, 0]]
    torch.testing.assert_close(link_scores(mask), torch.tensor(expected, dtype=torch.float64))


def test_no_path_of_length_3_no_score():
    """Two rows without a common column; and a row and a column without links."""
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert not link_scores(mask).any()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_of_nothing(shape):
    assert link_scores(torch.zeros(shape, dtype=torch.bool)).shape == shape


def by_paths(mask):
    """Over all paths r - z - y - c: y adds s(r, y), and z adds s(c, z), once for each pair of its neighbours that is joined."""
    rows, cols = mask.shape
    of_row = [{c for c in range(cols) if mask[r, c]} for r in range(rows)]
    of_col = [{r for r in range(rows) if mask[r, c]} for c in range(cols)]

    def similar(mine, others):
        return (len(mine & others) + 1) / max(1, len(others - mine)) if mine & others else 0.0

    scores = torch.zeros(rows, cols, dtype=torch.float64)
    for r, c in itertools.product(range(rows), range(cols)):
        if not mask[r, c]:
            paths = [(z, y) for z in of_row[r] for y in of_col[z] if y in of_col[c]]
            scores[r, c] += sum(similar(of_row[r], of_row[y]) for y in {y for _, y in paths})
            scores[r, c] += sum(similar(of_col[c], of_col[z]) for z in {z for z, _ in paths})
    return scores


@given(seed=st.integers(0, 999), rows=st.integers(1, 9), cols=st.integers(1, 9), density=st.floats(0, 1))
def test_equals_a_loop_over_paths(seed, rows, cols, density):
    mask = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < density
    torch.testing.assert_close(link_scores(mask), by_paths(mask))


def test_sums_are_exact(monkeypatch):
    """So the order of nodes, and with it tiles, threads and devices, change no bit."""
    mask = torch.rand(70, 50, generator=torch.Generator().manual_seed(0)) < 0.2
    whole = link_scores(mask)
    monkeypatch.setattr(links, "_TILE", 7 * 70)
    assert torch.equal(link_scores(mask), whole)
    rows, cols = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in mask.shape)
    assert torch.equal(link_scores(mask[rows][:, cols]), whole[rows][:, cols])
    assert torch.equal(link_scores(mask.t().contiguous()), whole.t())
