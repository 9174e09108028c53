"""Format versions of state dicts: old ones load, files without one load as the oldest, newer ones are refused in a sentence."""

import copy

import pytest
import torch
from torch import nn

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS

OLD = [None, {}, {"version": 1}, {"version": 2}]


def with_metadata(state, metadata):
    """As the state dict of a layer in a model; None: as from a file format that keeps tensors alone."""
    state = copy.copy(state) if metadata is not None else dict(state)
    if metadata is not None:
        state._metadata = {**state._metadata, "1": metadata}
    return state


def model(layout):
    return nn.Sequential(nn.Tanh(), SparseLinear(8, 6, layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layers_entries_have_a_version(layout):
    assert model(layout).state_dict()._metadata["1"] == {"version": 2}
    assert nn.Linear(2, 2).state_dict()._metadata[""] == {"version": 1}  # a dense layer's: torch's own


@pytest.mark.parametrize("metadata", OLD, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_of_older_versions_load(layout, metadata):
    saved, other = model(layout), model(layout)
    other.load_state_dict(with_metadata(saved.state_dict(), metadata))
    assert torch.equal(other[1].dense_weight(), saved[1].dense_weight())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_of_a_newer_version_are_refused(layout, assign):
    layer, state = model(layout), with_metadata(model(layout).state_dict(), {"version": 3})
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"1\.weight: expected entries of version 2 or older, got version 3: a newer"):
        layer.load_state_dict(state, assign=assign)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("rule", ["largest", "transposable", "soft"])
def test_a_rule_is_stored_by_its_name(rule):
    """Not by its place in a list, which the next rule may change."""
    layer = SparseLinear(8, 6, layout="2:4", capacity=1.0)
    layer.choose_(rule)
    assert bytes(layer.state_dict()["rule"].tolist()).decode().split()[0] == rule
