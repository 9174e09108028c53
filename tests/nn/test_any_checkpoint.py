"""A layer's checkpoint loads into every layer that can hold it; a corrupted one is refused and changes nothing, or is valid."""

import copy

import loader
import pytest
import states
import torch
from choices import Drawn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refused import refused

from sparse_ext.ops import LAYOUTS


def choices(data):
    return Drawn(data, st.integers)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data(), seed=st.integers(0, 255))
def test_a_checkpoint_loads_wherever_it_can_be_held(layout, data, seed):
    torch.manual_seed(seed)
    shape = choices(data).of(loader.SHAPES)
    donor, target = loader.made(choices(data), shape, layout), loader.made(choices(data), shape)
    state = {name: tensor for name, tensor in donor.state_dict().items() if name != "bias"}
    before = loader.snapshot(target)
    if text := refused(lambda: target.load_state_dict(state, strict=target.bias is None)):
        loader.assert_refused_whole(target, text, before)
        assert target.layout != layout or target.pattern.capacity < donor.pattern.capacity
        return
    loader.assert_valid(target)
    if target.chosen_by is None:  # all of it; but a dense layer's checkpoint is pruned
        dense = donor.dense_weight()
        everything = dense if donor.pattern.BUFFERS else dense.masked_fill(~target.mask(), 0)
        assert torch.equal(target.dense_weight(), everything)
    else:  # products take what its own rule chooses, of every weight
        weight = donor.dense_weight() if donor.chosen_by is None else donor.weight.view(donor.product.weight_shape)
        assert torch.equal(target.weight.view(donor.product.weight_shape), weight)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 255))
def test_a_layer_on_meta_takes_what_the_same_layer_with_values_takes(layout, data, seed):
    """By assignment; but a rule is unknown there."""
    torch.manual_seed(seed)
    shape = choices(data).of(loader.SHAPES)
    state, target = loader.donor(choices(data), shape).state_dict(), loader.made(choices(data), shape, layout)
    assume(target.chosen_by is None)
    state.setdefault("bias", torch.zeros(shape[1]))
    on_meta = copy.deepcopy(target).to("meta")
    texts = [refused(lambda one=one: one.load_state_dict(state, strict=False, assign=True)) for one in (target, on_meta)]
    assert texts[0] == texts[1]
    if texts[0]:
        assert on_meta.weight.is_meta
    else:
        loader.assert_valid(on_meta)
        assert torch.equal(on_meta.dense_weight(), target.dense_weight())


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40)
@given(st.data())
def test_a_corrupted_checkpoint_is_refused_or_valid(layout, data):
    loader.check_layer(choices(data), layout)


@settings(max_examples=40)
@given(st.data())
def test_a_corrupted_state_of_a_sparsifier_is_refused_or_valid(data):
    states.check(choices(data))
