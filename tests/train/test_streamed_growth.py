"""Growth from a gradient that nobody stores: the same training, and what happens where one pass was not all."""

import copy

import pytest
import torch
from torch import nn
from training import (
    KINDS,
    ONE,
    assert_same,
    at,
    backward,
    chosen_layer,
    constant_rigl,
    everything,
    mlp,
    positions,
    push,
    rigl,
    single,
)

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import CandidateSink, GradientTotal
from sparse_ext.train import distributed


def kept(model):
    """What keeps the gradient of each observed layer; None: its accumulations are only counted."""
    return {layer.watched.sink and type(layer.watched.sink) for layer in sparse_layers(model).values() if layer.watched}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_growth_trains_bit_for_bit_as_summed_growth(kind, dtype, optimizer, monkeypatch):
    name = optimizer
    outcomes = []
    for expected in (CandidateSink, GradientTotal):
        if expected is GradientTotal:  # of several ranks
            monkeypatch.setattr(distributed, "world_size", lambda group: 2)
            monkeypatch.setattr(distributed, "sum_", lambda score, group: score)
            monkeypatch.setattr(distributed, "verify_agreement", lambda *_: None)
        model = mlp(dtype=dtype, kind=kind)
        optimizer, sparsifier = rigl(model, name)
        seen = set()
        for step in range(1, 13):
            seen |= kept(model)
            backward(model, step)
            optimizer.step()
            assert sparsifier.step() == (step % 3 == 0)
            optimizer.zero_grad()
        assert seen - {None} == {expected}
        outcomes.append(everything(model, optimizer))
    assert_same(*outcomes)


def test_what_is_not_known_is_summed_and_then_streamed():
    """At construction nobody knows how many passes will come, and there is no step before to count them."""
    model, optimizer, sparsifier = single()
    for expected in (GradientTotal, CandidateSink, CandidateSink):
        assert kept(model) == {expected}
        push(model, at(2, 1.0))
        optimizer.step()
        assert sparsifier.step()


def test_a_pass_that_comes_unexpectedly_postpones_the_update():
    model, sparsifier = constant_rigl(t_end=1.0)
    changes = []
    for step in range(1, 8):
        for part in range(2 if step in (3, 4, 6) else 1):
            push(model, at(2 + part, 1.0 - part))
        changes.append(sparsifier.step())
    assert changes == [False, False, False, True, False, True, False]
    assert sparsifier.report().updates == 2


@pytest.mark.parametrize("sparsifier_first", [True, False])
def test_a_rollback_streams_again_in_either_order(sparsifier_first):
    model = mlp()
    optimizer, sparsifier = rigl(model)
    finals, saved = [], None
    for _ in range(2):
        for step in range(6, 13) if saved else range(1, 13):
            assert kept(model) <= {CandidateSink, None}
            backward(model, step)
            optimizer.step()
            assert sparsifier.step() == (step % 3 == 0)
            optimizer.zero_grad()
            if step == 5:  # the next step is observed
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
        finals.append(everything(model, optimizer))
        if sparsifier_first:
            sparsifier.load_state_dict(saved[2])
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        if not sparsifier_first:
            sparsifier.load_state_dict(saved[2])
    assert_same(*finals)


def test_an_update_that_leaves_a_layer_alone_does_not_observe_it():
    """A fifth of 4 entries is less than one."""
    layer = chosen_layer(torch.tensor(ONE))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sx.Sparsifier(layer, optimizer, sx.RigL(drop_fraction=0.2, update_interval=1, t_end=1.0), total_steps=9)
    assert layer.watched is None


def test_a_layer_used_twice_is_streamed():
    """In one backward pass: there the two products are accumulated at once."""
    grown = []
    for twice in (True, False):
        model, sparsifier = constant_rigl(t_end=1.0)
        for step in range(1, 4):
            assert kept(model) == ({None} if step == 2 else {CandidateSink} if step == 3 else set())
            if twice:
                (model(torch.eye(4)) * at(2, 2.0).t() - model(torch.eye(4)) * at(7, 1.0).t()).sum().backward()
            else:
                push(model, at(2, 2.0) - at(7, 1.0))
            assert sparsifier.step() == (step == 3)
        grown.append(positions(model[0]).tolist())
    assert grown[0] == grown[1] == [1, 2, 4, 5]


def test_a_layer_without_a_pass_keeps_its_pattern():
    model = nn.ModuleList([chosen_layer(torch.tensor(ONE)), chosen_layer(torch.tensor(ONE))])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=2, t_end=1.0, schedule="constant")
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    for step in range(1, 5):
        for layer in model if step < 3 else model[:1]:
            push(layer, at(2 if step < 3 else 7, 1.0))
        assert sparsifier.step() == (step % 2 == 0)
        if step == 2:
            before = positions(model[1]).tolist()
    assert positions(model[1]).tolist() == before == [1, 2, 4, 5]
    assert positions(model[0]).tolist() != before
