"""Any update of any method: what stays keeps its value and its optimizer state bit for bit, and what is new begins at 0."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import more, recorded
from training import CHANGING, KINDS, OPTIMIZERS, backward, method_named, mlp, slots, spread

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
    orders = recorded(sparsifier)
    for step in range(1, steps + 1):
        backward(model, seed + step)
        optimizer.step()
        before = {name: held(layer, optimizer) for name, layer in sparse_layers(model).items()}
        orders.clear()
        assert sparsifier.step() == bool(orders and orders[0])
        for name, layer in sparse_layers(model).items():
            action = orders[0].get(name) if orders else None
            anew = getattr(action, "fresh_state", False)
            assert_followed(held(layer, optimizer), before[name], layer, more(chosen, action), anew)
        optimizer.zero_grad(set_to_none=True)


def held(layer, optimizer):
    """What belongs to a slot, as a flat matrix; and where it is."""
    where = layer.mask().flatten() if layer.chosen_by is None else torch.ones(layer.capacity, dtype=torch.bool)
    return where, layer.nnz, {name: spread(layer, value) for name, value in slots(layer, optimizer).items() if name != "grad"}


def assert_followed(now, before, layer, more, anew):
    """more: how many weights it has gained, if that is known. anew: whether the optimizer's state begins anew."""
    (mask, nnz, values), (old_mask, old_nnz, old_values) = now, before
    assert more is None or nnz == old_nnz + more
    assert values.keys() == old_values.keys()
    for name, value in values.items():
        stays = old_values[name][mask & old_mask]
        expected = torch.zeros_like(stays) if anew and name != "weight" else stays
        assert torch.equal(value[mask & old_mask], expected), name
        assert not value[mask & ~old_mask].any(), name
    assert not layer.weight[layer.slots() < 0].any()
