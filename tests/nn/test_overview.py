"""`summary`: what is sparse, what stays dense and why, and the shares."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import sparse_ext as sx


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.up_bias = nn.Parameter(torch.randn(2, 10, 10)), nn.Parameter(torch.zeros(2, 10))


def model():
    tied = nn.Linear(10, 50, bias=False)
    parts = {
        "words": nn.Embedding(50, 10),
        "body": nn.Linear(10, 20),
        "narrow": nn.Linear(20, 1),
        "norm": nn.LayerNorm(10),
        "rnn": nn.GRU(10, 10, bias=False),
        "experts": Experts(),
        "out": nn.Linear(20, 30),
        "head": tied,
    }
    tied.weight = parts["words"].weight
    return nn.ModuleDict(parts)


@pytest.mark.filterwarnings("ignore:sparsify_")
def test_by_hand():
    converted = sx.sparsify_(model(), 0.5, distribution="uniform", layout="csr", exclude=["out"])
    rows = {row.name: row for row in sx.summary(converted).weights}
    assert list(rows) == ["words", "body", "narrow", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "experts.up", "out"]
    assert (rows["body"].kind, rows["body"].shape, rows["body"].nnz) == ("SparseLinear", (20, 10), 100)
    assert (rows["body"].layout, rows["body"].why) == ("csr", "as asked for")
    assert {name: row.why for name, row in rows.items() if row.layout is None} == {
        "words": "looked up, not multiplied",
        "rnn.weight_ih_l0": "nothing replaces GRU; see register_layer",
        "rnn.weight_hh_l0": "nothing replaces GRU; see register_layer",
        "experts.up": "nothing replaces Experts; see register_layer",
        "out": "excluded",
    }
    found = sx.summary(converted)
    assert found.size == 200 + 20 + 300 + 300 + 200 + 600
    assert found.dense_share == pytest.approx(1400 / 1620)
    assert found.density == pytest.approx((100 + 10 + 1400) / 1620)
    assert rows["experts.up"].size == rows["experts.up"].nnz == 200


def test_reasons_before_and_after_a_conversion():
    dense = nn.ModuleDict({"odd": nn.Linear(8, 8), "plain": nn.Linear(8, 8), "deep": nn.Conv2d(8, 8, 3, groups=8)})
    dense["odd"].register_forward_hook(lambda *_: None)

    def whys(one):
        return {row.name: row.why for row in sx.summary(one).weights if row.layout is None}

    assert whys(dense) == {"odd": "its hooks would be lost", "plain": "not converted", "deep": "not converted"}
    with pytest.warns(UserWarning, match="stays? dense") as told:
        sx.sparsify_(dense, 0.5)
    assert len(told) == 3  # two layers, and that they are much
    assert set(whys(dense)) == {"odd", "deep"}
    assert whys(dense)["deep"].startswith("a depthwise convolution")
    assert whys(copy.deepcopy(dense)) == {"odd": "its hooks would be lost", "deep": "not converted"}


def test_every_layer_has_a_row():
    dense = nn.ModuleDict({"narrow": nn.Linear(8, 1), "normed": parametrizations.weight_norm(nn.Linear(8, 8))})
    found = [(row.name, row.kind, row.size, row.why) for row in sx.summary(dense).weights]
    assert found == [
        ("narrow", "Linear", 8, "not converted"),
        ("normed.parametrizations.weight.original1", "ParametrizedLinear", 64, "its weight is parametrized"),
    ]


def test_layers_that_keep_all_weights_say_so():
    dense = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 2))
    sx.sparsify_(dense, 0.5)
    assert [row.why for row in sx.summary(dense).weights if row.layout is None] == [
        "its share of the sparsity leaves it all weights"
    ]


def test_a_table():
    lines = str(sx.summary(sx.sparsify_(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), 0.5, layout="csr"))).splitlines()
    assert [line.split()[0] for line in lines] == ["weight", "0", "1", "192"]
    assert len({line.index("SparseLinear") for line in lines[1:3]}) == 1
    assert lines[-1] == "192 positions of matrix weights, 0.0% of them dense; density 50.00%"
    assert "16 x 8" in lines[1]


@pytest.mark.parametrize("empty", [nn.Sequential(), nn.LazyLinear(3), nn.Sequential(nn.Linear(8, 8, device="meta"))])
def test_a_model_without_weights_has_a_summary(empty):
    assert "of matrix weights" in str(sx.summary(empty))
