"""Any update of any method: what stays keeps its value and its optimizer state bit for bit, and what is new begins at 0."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training import CHANGING, KINDS, OPTIMIZERS, RENEWING, backward, method_named, mlp, slots, spread

import sparse_ext as sx
from sparse_ext.nn import sparse_layers


@pytest.mark.parametrize(("method", "layout"), CHANGING)
@settings(max_examples=3)
@given(
    seed=st.integers(0, 99),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    share=st.sampled_from([0.05, 0.3, 1.0]),
    steps=st.integers(2, 4),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_values_and_state_follow(method, layout, seed, optimizer, share, steps, kind):
    model = mlp(seed, layout=layout, method=method, kind=kind)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    chosen = method_named(method, update_interval=1, refresh_interval=1, t_end=1.0, drop_fraction=share, dense_tail=0.0)
    sparsifier = sx.Sparsifier(model, optimizer, chosen, total_steps=10)
    for step in range(1, steps + 1):
        backward(model, seed + step)
        optimizer.step()
        before = {name: held(layer, optimizer) for name, layer in sparse_layers(model).items()}
        sparsifier.step()
        for name, layer in sparse_layers(model).items():
            assert_followed(held(layer, optimizer), before[name], layer, method)
        optimizer.zero_grad(set_to_none=True)


def held(layer, optimizer):
    """What belongs to a slot, as a flat matrix; and where it is."""
    where = layer.mask().flatten() if layer.chosen_by is None else torch.ones(layer.capacity, dtype=torch.bool)
    return where, layer.nnz, {name: spread(layer, value) for name, value in slots(layer, optimizer).items() if name != "grad"}


def assert_followed(now, before, layer, method):
    (mask, nnz, values), (old_mask, old_nnz, old_values) = now, before
    assert nnz == old_nnz or sx.METHODS[method].changes_density
    assert values.keys() == old_values.keys()
    for name, value in values.items():
        if method in RENEWING and nnz > old_nnz and name != "weight":
            assert not value.any()
            continue
        assert torch.equal(value[mask & old_mask], old_values[name][mask & old_mask]), name
        assert not value[mask & ~old_mask].any(), name
    assert not layer.weight[layer.slots() < 0].any()
