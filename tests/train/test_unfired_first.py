"""Growth that takes what was never in use before all else: exactly, on every layout, and after a resume."""

import copy
import io

import pytest
import torch
from torch import nn
from training import (
    ONE,
    PATTERNS,
    assert_same,
    at,
    backward,
    chosen_layer,
    everything,
    masks,
    mlp,
    positions,
    push,
    run,
)

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

METHODS = {
    "set": sx.SET(drop_fraction=0.4, update_interval=2, t_end=1.0, schedule="constant", unfired_first=True),
    "rigl": sx.RigL(drop_fraction=0.4, update_interval=2, t_end=1.0, schedule="constant", unfired_first=True),
}
PAIRS = [(method, layout) for method in METHODS for layout in PATTERNS]


def trainer(method, layout="csr", seed=0, dtype=torch.float32, **choices):
    model = mlp(seed, layout=layout, dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, sx.Sparsifier(model, optimizer, METHODS[method], total_steps=1000, seed=seed, **choices)


def test_a_small_gradient_where_nothing_was_before_wins_and_zero_too():
    """Entries at 0, 1, 4 and 5; every step replaces the one of smallest weight."""
    layer = chosen_layer(torch.tensor(ONE))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=1, t_end=1.0, schedule="constant", unfired_first=True)
    sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=100)
    found = []
    for gradient in (at(0, 9.0) + at(7, 0.1), at(0, 9.0) + at(6, 1e-30), at(0, 9.0), at(7, 0.5), at(0, 9.0) + at(3, 9.0)):
        push(layer, gradient)
        optimizer.step()
        assert sparsifier.step()
        optimizer.zero_grad()
        found.append(positions(layer).tolist())
        # What has grown is 0: the next one to go, or to stay if it grows again.
    assert found == [
        [1, 4, 5, 7],  # not 0, which was just dropped
        [1, 4, 5, 6],  # 7 goes
        [1, 2, 4, 5],  # 2 and 3 score 0: the lower one
        [1, 3, 4, 5],  # still before 7, which has a gradient
        [0, 1, 4, 5],  # all were in use by now: by the gradient alone
    ]


PARTS = {"2:4": 4, "ell": 0}  # within which a layout chooses: four neighbours, a row; others choose in the whole layer


@pytest.mark.parametrize(("method", "layout"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_in_use_waits_for_what_was_not(method, layout, dtype):
    model, optimizer, sparsifier = trainer(method, layout, dtype=dtype)
    ever = masks(model)
    for step in range(1, 25):
        backward(model, step)
        optimizer.step()
        before = masks(model)
        changed = sparsifier.step()
        optimizer.zero_grad()
        for name, layer in sparse_layers(model).items() if changed else ():
            now = layer.mask()
            waits, again = ~(now | ever[name]), now & ~before[name] & ever[name]
            size = PARTS.get(layout, now.numel()) or now.shape[1]
            assert not (waits.reshape(-1, size).any(1) & again.reshape(-1, size).any(1)).any()
            if layout not in PARTS:  # nothing that was in use grows, what was just dropped neither
                assert int((now & ~ever[name]).sum()) == min(int(0.4 * layer.nnz), int((~ever[name]).sum()))
            ever[name] |= now
    for row in sparsifier.report().layers:
        assert row.coverage == float(ever[row.name].double().mean())
        assert row.coverage == 1.0 or layout in PARTS


@pytest.mark.parametrize("method", METHODS)
def test_layouts_that_hold_every_mask_choose_the_same(method):
    start, outcomes = mlp(dtype=torch.float64), {}
    for layout in (layout for layout in PATTERNS if layout not in PARTS):
        model = sx.densify_(copy.deepcopy(start))
        for name, layer in sparse_layers(start).items():
            dense = model.get_submodule(name)
            model.set_submodule(name, sx.SparseLinear.from_dense(dense, mask=layer.mask(), layout=layout))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        sparsifier = sx.Sparsifier(model, optimizer, METHODS[method], total_steps=1000)
        run(model, optimizer, sparsifier, range(1, 13))
        outcomes[layout] = masks(model)
    assert len(outcomes) > 1
    for outcome in outcomes.values():
        assert_same(outcome, outcomes["csr"])


@pytest.mark.parametrize("saved_at", [5, 6])
@pytest.mark.parametrize(("method", "layout"), PAIRS)
def test_a_resumed_run_equals_the_uninterrupted_one(method, layout, saved_at):
    model, optimizer, sparsifier = trainer(method, layout, seed=5)
    run(model, optimizer, sparsifier, range(1, saved_at + 1))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, sparsifier)], file)
    run(model, optimizer, sparsifier, range(saved_at + 1, 21))
    again = trainer(method, layout, seed=99)
    file.seek(0)
    for part, state in zip(again, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    run(*again, range(saved_at + 1, 21))
    assert_same(everything(*again[:2]), everything(model, optimizer))
    assert str(again[2].report()) == str(sparsifier.report())


def test_states_of_versions_without_the_choice_load():
    """They are those of runs without it; and a state says the choice only if it was made."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for plain in (sx.RigL(), sx.SET()):
        state = sx.Sparsifier(model, optimizer, plain, total_steps=9).state_dict()
        assert "unfired_first" not in state["method"]
        other = type(plain)(unfired_first=True)
        with pytest.raises(ValueError, match=r"expected the state of method .*'unfired_first': True"):
            sx.Sparsifier(model, optimizer, other, total_steps=9).load_state_dict(state)


def test_positions_that_were_loaded_count_as_used():
    """A pattern from elsewhere: its positions do not grow as new ones when they are dropped."""
    layer = chosen_layer(torch.tensor(ONE))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=1, t_end=1.0, schedule="constant", unfired_first=True)
    sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=100)
    layer.set_matrix_(torch.tensor([[0, 2.0, 1.0, 0], [3.0, 4.0, 0, 0]]), torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]).bool())
    push(layer, at(2, 9.0))
    optimizer.step()
    assert sparsifier.step()
    assert positions(layer).tolist() == [1, 3, 4, 5]
