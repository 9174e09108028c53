"""Random choices in proportion to a score: exact counts, the chances, and the stream that decides."""

import itertools

import pytest
import torch

from sparse_ext.ops import drawn
from sparse_ext.ops.pattern import largest

RUNS = 3000


def test_chances_are_in_proportion_to_the_power_of_the_score():
    weights = torch.tensor([1.0, -2.0, 3.0, 0.0, 2.0])
    counts = sum(largest(drawn(weights, 2.0, seed), 1).int() for seed in range(RUNS))
    chance = weights**2 / (weights**2).sum()
    assert (counts / RUNS - chance).abs().max() < 5 * (0.25 / RUNS) ** 0.5
    assert counts[3] == 0


def test_pairs_are_drawn_without_replacement():
    """The chance of {i, j} is p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j)."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = [tuple(largest(drawn(p, 1.0, seed), 2).nonzero().flatten().tolist()) for seed in range(RUNS)]
    for i, j in itertools.combinations(range(4), 2):
        chance = float(p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])))
        assert abs(found.count((i, j)) / RUNS - chance) < 5 * (0.25 / RUNS) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extremes_keep_their_order_and_zeros_are_last(dtype):
    score = torch.tensor([1e-30, 0.0, 1e30, float("inf"), float("nan"), -1e20]).to(dtype)
    rank = drawn(score, 9.0, 5)
    assert rank.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert rank[3] == rank[4] == 1.0 > rank[2] * (1 - 1e-6)
    assert rank[2] > rank[5] > rank[0] > rank[1] == 0.0
    assert drawn(torch.zeros(3), 0.0, 1).tolist() == [0.0, 0.0, 0.0]
    assert drawn(torch.zeros(0), 1.0, 1).numel() == 0


def test_an_element_has_the_random_number_of_its_position():
    score = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.5
    at = torch.tensor([40, 3, 17, -1, 8])
    whole, part = drawn(score, 1.0, 11), drawn(score[at.clamp(min=0)].where(at >= 0, 0.0), 1.0, 11, at)
    assert torch.equal(part.argsort(), whole[at.clamp(min=0)].where(at >= 0, 0.0).argsort())
    assert not torch.equal(whole.argsort(), drawn(score, 1.0, 12).argsort())
