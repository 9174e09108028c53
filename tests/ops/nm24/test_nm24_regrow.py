"""Drop and grow inside groups of four: by hand, exact counts, what moves where. The twin is tested in test_ops.py."""

import pytest
import torch
from by_hand import NM24_REGROW
from cases import sum_dtype

from sparse_ext.ops import OPS

prune, pack, unpack, regrow = OPS["nm24_prune"], OPS["nm24_pack"], OPS["nm24_unpack"], OPS["nm24_regrow"]


def packed(weight, device, dtype):
    """values and ids of rows of numbers, None where there is no entry."""
    mask = torch.tensor([[1.0 if w is not None else 0.0 for w in row] for row in weight], device=device)
    _, ids = prune(mask, "largest")
    dense = torch.tensor([[0.0 if w is None else w for w in row] for row in weight]).to(device, dtype)
    return pack(dense, ids)[0], ids


def entries(ids, source, cols):
    """The old entry at each position, -1 where it is new, None where there is none."""
    numbers = unpack((source + 2).double().view(ids.shape[0], -1), ids, cols).tolist()
    return [[None if n == 0 else int(n) - 2 for n in row] for row in numbers]


@pytest.mark.parametrize("case", NM24_REGROW, ids=str)
def test_by_hand(case, device, dtype):
    values, ids = packed(case.weight, device, dtype)
    score, cols = torch.tensor(case.score, dtype=sum_dtype(dtype), device=device), len(case.weight[0])
    assert entries(*regrow(values, ids, cols, score, 0, case.drop), cols) == case.after


def taken(values, source):
    """As optimizer state moves: 0 where new."""
    return torch.where(source < 0, 0, values.flatten()[source.clamp(min=0).long()]).view(values.shape)


SHAPES = [(1, 4), (3, 12), (5, 128), (33, 20), (64, 68), (130, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_counts_and_values_that_move(shape, device, dtype):
    """Where no entry has a score, as many positions are new as were dropped, and all that was dropped is gone."""
    (rows, cols), positions = shape, shape[0] * shape[1]
    dense = ((1 + torch.randperm(positions, dtype=torch.float64)).view(shape) / positions).to(device, dtype)
    values, ids = prune(dense, "largest")
    mask = unpack(torch.ones_like(values), ids, cols) != 0
    score = torch.rand(shape, dtype=sum_dtype(dtype)).to(device).add(1).masked_fill(mask, 0)
    for drop in (0, 1, positions // 5, positions // 2):
        new_ids, source = regrow(values, ids, cols, score, 0, drop)
        assert (source < 0).sum() == drop
        assert source.dtype == torch.int32
        kept = source[source >= 0]
        assert (kept.diff() > 0).all()  # each once, in order
        lost = torch.ones(values.numel(), dtype=torch.bool, device=device).index_fill(0, kept.long(), False)
        magnitude = values.flatten().abs()
        assert not lost.any() or lost.all() or magnitude[lost].max() <= magnitude[~lost].min()
        grown = unpack(taken(values, source), new_ids, cols)
        still = (grown != 0) & mask
        assert torch.equal(grown, torch.where(still, dense, 0))
        assert still.sum() == positions // 2 - drop
        new_mask = unpack(torch.ones_like(values), new_ids, cols) != 0
        assert (new_mask.view(rows, -1, 4).sum(-1) == 2).all()


def test_a_position_that_comes_back_keeps_its_slot(device, dtype):
    """Everything is dropped, and the score is as the weight was: nothing has changed."""
    dense = torch.randn(17, 24, dtype=torch.float64).to(device, dtype)
    values, ids = prune(dense, "largest")
    new_ids, source = regrow(values, ids, 24, dense.to(sum_dtype(dtype)), 0, values.numel())
    assert torch.equal(new_ids, ids)
    assert source.tolist() == list(range(values.numel()))


def test_random_growth_is_the_stream_of_its_seed(device):
    values, ids = prune(torch.randn(40, 32, device=device), "largest")
    calls = [regrow(values, ids, 32, None, seed, 500) for seed in (1, 1, 2, -1, -(2**63))]
    same = [[torch.equal(a[0], b[0]) for b in calls] for a in calls]
    assert same == [[i == j or {i, j} == {0, 1} for j in range(5)] for i in range(5)]


def case():
    return prune(torch.randn(4, 11), "largest")


BAD = {
    "drop too many": (lambda v, i: regrow(v, i, 11, None, 0, 25), ValueError, "drop between 0 and 24 .* got 25"),
    "no alternative": (lambda v, i: regrow(v, i, 10, None, 0, 17), ValueError, "drop between 0 and 16 .* got 17"),
    "drop below 0": (lambda v, i: regrow(v, i, 11, None, 0, -1), ValueError, "drop between 0 and 24 .* got -1"),
    "other columns": (lambda v, i: regrow(v, i, 13, None, 0, 1), ValueError, r"values .*\(rows, 8\) \(of 13 .* got \(4, 6\)"),
    "flat values": (lambda v, i: regrow(v.view(-1), i, 11, None, 0, 1), ValueError, r"values .*\(rows, 6\) .* got \(24,\)"),
    "ids of floats": (lambda v, i: regrow(v, i.float(), 11, None, 0, 1), TypeError, "ids .* torch.uint8, got torch.float32"),
    "ids too few": (lambda v, i: regrow(v, i[:, :1], 11, None, 0, 1), ValueError, r"ids of shape \(4, 2\) .* got \(4, 1\)"),
    "a narrow score": (lambda v, i: regrow(v, i, 11, torch.ones(4, 10), 0, 1), ValueError, r"score .*\(4, 11\), got \(4, 10\)"),
    "a score of 16 bits": (
        lambda v, i: regrow(v, i, 11, torch.ones(4, 11).bfloat16(), 0, 1), TypeError, "score .*float32 .* got torch.bfloat16"),
    "integers": (lambda v, i: regrow(v.int(), i, 11, None, 0, 1), TypeError, "values of dtype .* got torch.int32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_sentence(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=f"^nm24_regrow: expected {message}"):
        call(*case())
