"""`with_first`: an exact order, whatever the scores are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_ext.ops import CsrPattern, random_score, reference, with_first

TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def order(rank):
    return sorted(range(rank.numel()), key=lambda at: (-rank.flatten().tolist()[at], at))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(dtype):
    """The positions 1, 2, 5 and 7 come first: two of them score 0, and one less than what float32 holds beside LARGEST."""
    score = torch.tensor([LARGEST, 0.0, -TINY, 3.0, -3.0, -0.0, 0.0, 1e-45], dtype=dtype)
    first = torch.tensor([False, True, True, False, False, True, False, True])
    assert order(with_first(score, first)) == [2, 7, 1, 5, 0, 3, 4, 6]


@given(
    st.lists(st.tuples(st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_order(pairs, dtype):
    values, flags = map(list, zip(*pairs, strict=True))
    size = [float("inf") if value != value else abs(value) for value in values]
    expected = sorted(range(len(values)), key=lambda at: (not flags[at], -size[at], at))
    rank = with_first(torch.tensor(values, dtype=dtype), torch.tensor(flags))
    assert rank.dtype == torch.float64
    assert order(rank) == expected


def test_random_growth_is_the_same_with_this_score():
    """On every layout; here csr, by its own stream and by the score."""
    pattern = CsrPattern.random(9, 14, 40, seed=3)
    keep = torch.rand(40)
    plain, source = pattern.regrown(keep, -77, 15, 15)
    score = random_score(9, 14, -77)
    assert torch.equal(score.flatten(), reference.random_u32(-77, 126))
    nothing = torch.zeros(9, 14, dtype=torch.bool)
    for first in (nothing, ~nothing):
        other, moved = pattern.regrown(keep.double(), with_first(score, first), 15, 15)
        assert torch.equal(other.mask(), plain.mask())
        assert torch.equal(moved, source)
