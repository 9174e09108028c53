"""First patterns with equally many positions in every row, near the row's own place."""

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn.receptive_field import receptive_field
from sparse_ext.ops import CsrPattern


def drawn_mask(rows, cols, nnz, spread, seed=0):
    return CsrPattern.select(receptive_field(rows, cols, spread, seed), nnz).mask()


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("rows", "cols", "nnz"), [(7, 30, 70), (7, 30, 75), (30, 7, 64), (5, 4, 3), (3, 4, 12), (1, 1, 1)])
def test_rows_share_the_positions(rows, cols, nnz, spread):
    count = drawn_mask(rows, cols, nnz, spread).sum(1)
    assert int(count.sum()) == nnz
    assert set(count.tolist()) <= {nnz // rows, nnz // rows + 1}


def test_at_0_they_are_the_nearest():
    """Rows lie at columns 0, 2 and 4 of a ring of 6; of equally near ones the lower column is first."""
    assert drawn_mask(3, 6, 9, 0.0).int().tolist() == [[1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert drawn_mask(3, 6, 6, 0.0).int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]


def mean_distance(mask):
    rows, cols = mask.nonzero().T
    apart = (cols - rows * mask.shape[1] // mask.shape[0]).abs()
    return float(torch.minimum(apart, mask.shape[1] - apart).double().mean())


def test_the_smaller_the_nearer():
    """At 1 anywhere: the mean distance on a ring is a quarter of it."""
    found = [mean_distance(drawn_mask(100, 200, 2000, spread)) for spread in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert found == sorted(found)
    assert found[0] == 5.0
    assert 49 < found[-1] < 51
    # With r = 0.3: chances (1 + d) ** (-7/3); nearly all of the 20 positions are the nearest, some are not.
    assert 5.5 < found[2] < 20


def test_which_rows_get_one_more_is_random():
    counts = torch.stack([drawn_mask(4, 9, 6, 1.0, seed).sum(1) for seed in range(200)]).double().mean(0)
    assert ((counts - 1.5).abs() < 0.15).all()


def test_it_is_determined_by_the_seed():
    assert torch.equal(receptive_field(9, 8, 0.3, 5), receptive_field(9, 8, 0.3, 5))
    assert not torch.equal(drawn_mask(9, 8, 20, 0.3, 5), drawn_mask(9, 8, 20, 0.3, 6))


def model():
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 30))


@pytest.mark.parametrize("init", ["variance", "masked"])
@pytest.mark.parametrize("layout", ["csr", "masked"])
def test_sparsify_asks_the_method(layout, init):
    found = {}
    for name, method in (("rigl", sx.RigL()), ("srigl", sx.SRigL()), ("chts", sx.CHTs())):
        torch.manual_seed(0)
        layers = sx.sparsify_(model(), 0.8, layout=layout, method=method, init=init)
        masks = [layers[i].mask().flatten(1) for i in (0, 2)]
        found[name] = [mask.sum(1).max() - mask.sum(1).min() for mask in masks]
        found[name, "near"] = mean_distance(masks[1])
        assert all(layer.weight.detach()[layer.slots() >= 0].all() for layer in (layers[0], layers[2]))
        assert abs(float(layers[2].dense_weight().square().sum() / 30 - 1 / 3)) < 0.1 or init == "masked"
    assert min(found["rigl"]) > 1
    assert max(found["srigl"] + found["chts"]) <= 1
    assert found["chts", "near"] < 0.5 * found["srigl", "near"]


def test_two_of_four_are_the_nearest_of_their_four():
    torch.manual_seed(0)
    layers = sx.sparsify_(nn.Sequential(nn.Linear(64, 30)), layout="2:4", method=sx.CHTs(receptive_field=0.0))
    # Output 0 lies at column 0: of a four to the right of it the first two are nearer, of one to the left the last two.
    assert layers[0].mask()[0].view(-1, 4).int().tolist() == 8 * [[1, 1, 0, 0]] + 8 * [[0, 0, 1, 1]]
    assert layers[0].nnz == 30 * 32
