"""param_groups: what decays is what would decay in the dense model, every parameter once."""

import copy

import pytest
import torch
from kinds import KINDS
from torch import nn
from torch.nn.utils import parametrize

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS


class Positive(nn.Module):
    def forward(self, weight):
        return nn.functional.softplus(weight)


def names_of(model, groups):
    """{weight decay: names} of the groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["weight_decay"]: [names[id(parameter)] for parameter in group["params"]] for group in groups}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sparse_weight_decays_as_the_dense_one(layout, kind):
    model = nn.Sequential(KINDS[kind].made(layout=layout), nn.LayerNorm(3), nn.Embedding(4, 3), nn.Conv1d(3, 3, 1))
    found = names_of(model, sx.param_groups(model, 0.1))
    assert found == {0.1: ["0.weight", "2.weight", "3.weight"], 0.0: ["0.bias", "1.weight", "1.bias", "3.bias"]}
    dense = sx.densify_(copy.deepcopy(model))
    assert names_of(dense, sx.param_groups(dense, 0.1)) == found


def test_what_is_frozen_tied_or_excluded():
    model = nn.Sequential(sx.SparseLinear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), sx.SparseLinear(4, 4))
    model[2].weight = model[1].weight
    model[3].weight.requires_grad_(False)
    every = {"0.weight", "0.bias", "1.weight", "1.bias", "2.bias", "3.bias"}
    for no_decay, decaying in (((), ["0.weight", "1.weight"]), ("0", ["1.weight"]), (["2.w*", "*.bias"], ["0.weight"])):
        found = names_of(model, sx.param_groups(model, 0.1, no_decay=no_decay))
        assert found.pop(0.1) == decaying
        assert {*decaying, *found.pop(0.0)} == every
    torch.optim.AdamW(sx.param_groups(model, 0.1), lr=1e-3)


def test_norms_and_parametrizations():
    """The weight decays, whatever computes with it, and the norms of weight_norm do not."""
    model = nn.Sequential(*(sx.SparseLinear(4, 4, bias=False, sparsity=0.5) for _ in range(3)))
    sx.utils.spectral_norm(model[0])
    sx.utils.weight_norm(model[1])
    parametrize.register_parametrization(model[2], "weight", Positive())
    found = names_of(model, sx.param_groups(model, 0.1))
    assert found == {0.1: ["0.weight", "1.weight", "2.parametrizations.weight.original"], 0.0: ["1.weight_norm.g"]}


def test_no_empty_groups():
    assert len(sx.param_groups(nn.Sequential(sx.SparseLinear(4, 4, bias=False)), 0.0)) == 1
    assert sx.param_groups(nn.ReLU(), 0.1) == []


def test_wrong_arguments():
    model = nn.Sequential(sx.SparseLinear(4, 4))
    for decay in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a finite weight_decay"):
            sx.param_groups(model, decay)
    with pytest.raises(ValueError, match="expected no_decay to name parameters or modules of the model, got 'head'"):
        sx.param_groups(model, 0.1, no_decay="head")
