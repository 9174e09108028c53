"""A run whose layers change their storage resumes bit for bit, in every phase and at the switch; and it may be rolled back."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from following import CHOICES, METHODS, TOTAL, build, held, stored, switches, table_from_60_percent
from training import OPTIMIZERS, assert_same, backward, everything, method_named, mlp, run, spread

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import auto


@pytest.fixture(autouse=True)
def from_60_percent(monkeypatch):
    monkeypatch.setattr(auto.POLICY, "table", table_from_60_percent())


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def outcome(model, optimizer, sparsifier):
    """All that a run leaves; of the report not the reason for a storage: it may be that of the checkpoint."""
    rows = sparsifier.report().layers
    return everything(model, optimizer) | {"report": [replace(row, reason="") for row in rows]}


def saves(method):
    """Before, at and after the first two switches and the last; and some in between."""
    found = switches(method)
    return sorted({at + d for at in (*found[:2], found[-1]) for d in (-1, 0, 1)} & set(range(1, TOTAL)) | {1, TOTAL - 2})


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_bit_for_bit_in_every_phase(method):
    """Whatever is loaded first."""
    whole = build(method)
    states, reached = {}, 0
    for step in saves(method):
        run(*whole, range(reached + 1, step + 1))
        states[step], reached = through_a_file([part.state_dict() for part in whole]), step
    run(*whole, range(reached + 1, TOTAL + 1))
    expected = outcome(*whole)
    for step, state in states.items():
        parts = build(method, seed=7)  # another seed: nothing may come from construction
        for n in ((0, 1, 2), (1, 0, 2), (2, 1, 0))[step % 3]:
            parts[n].load_state_dict(copy.deepcopy(state[n]))
        run(*parts, range(step + 1, TOTAL + 1))
        assert_same(outcome(*parts), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_loaded_before_its_sparsifier_is_made(method):
    whole = build(method)
    at = switches(method)[-1] + 1
    run(*whole, range(1, at + 1))
    states = through_a_file([part.state_dict() for part in whole])
    run(*whole, range(at + 1, TOTAL + 1))
    model = mlp(7, layout="auto", method=method)
    for layer in sparse_layers(model).values():  # as sparsify_(model, method=...) makes it
        layer.aim_at_(0.3)
    model.load_state_dict(states[0])
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    optimizer.load_state_dict(states[1])
    sparsifier = sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL)
    sparsifier.load_state_dict(states[2])
    run(model, optimizer, sparsifier, range(at + 1, TOTAL + 1))
    assert_same(everything(model, optimizer), everything(*whole[:2]))


@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_back_in_time(method):
    parts = build(method)
    first = switches(method)[0]
    run(*parts, range(1, first))
    state = through_a_file([part.state_dict() for part in parts])
    results = []
    for _ in range(2):
        run(*parts, range(first, TOTAL + 1))
        results.append(outcome(*parts))
        for part, one in zip(parts, copy.deepcopy(state), strict=True):
            part.load_state_dict(one)
    assert_same(*results)


@pytest.mark.parametrize("average_too", [True, False])
def test_a_rollback_of_the_weights_alone(average_too):
    """Back over a switch: gradients, moments and the average follow by position."""
    model, optimizer, sparsifier = build("gmp")
    average = copy.deepcopy(model)
    sparsifier.track(average)
    run(model, optimizer, sparsifier, range(1, 4))
    best, earlier = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state_dict())
    run(model, optimizer, sparsifier, range(4, 27))
    backward(model, 27)
    before, mean = held(model, optimizer), spread(average[0], average[0].weight.detach())
    assert stored(model)[0][0] == "auto"
    if average_too:
        average.load_state_dict(earlier)
    model.load_state_dict(best)
    assert stored(model)[0] == ("masked", 240)
    assert torch.equal(model[0].weight, best["0.weight"])
    for then, now in zip(before, held(model, optimizer), strict=True):
        for name, value in now.items():
            assert name == "weight" or torch.equal(value, then[name]), name
    assert (average[0].layout, average[0].capacity) == ("masked", 240)
    if average_too:
        assert torch.equal(average[0].weight, earlier["0.weight"])
    else:
        assert torch.equal(average[0].weight, mean)
    optimizer.step()
    sparsifier.step()


def test_a_refused_checkpoint_leaves_the_storage():
    donor, _, _ = (parts := build("gmp"))
    run(*parts, range(1, TOTAL + 1))
    model, *_ = build("gmp", seed=1)
    before, values = stored(model), copy.deepcopy(model.state_dict())
    good = donor.state_dict()
    for key, value in (("0.bias", torch.zeros(3)), ("0.col_idx", good["0.col_idx"] + 40), ("0.weight", good["0.weight"][:5])):
        with pytest.raises(RuntimeError, match=key.split(".")[1] if "col" not in key else "pattern"):
            model[0].load_state_dict({name[2:]: tensor for name, tensor in {**good, key: value}.items() if name[0] == "0"})
        assert stored(model) == before
        assert_same(model.state_dict(), values)
