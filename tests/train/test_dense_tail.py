"""FST's dense tail: all weights train, the layout is "dense", a run resumes in it, and reports count the switch."""

import copy

import pytest
import torch
from training import backward, dense_weight_trainer, everything, run

import sparse_ext as sx
from sparse_ext.methods import Choose, Time
from sparse_ext.nn import sparse_layers


def test_the_tail_is_dense():
    model, optimizer, sparsifier = dense_weight_trainer(sx.FST(refresh_interval=4, dense_tail=0.25, decay=0.5), total_steps=12)
    layers = list(sparse_layers(model).values())
    changed = [step for step in range(1, 13) if run(model, optimizer, sparsifier, range(step, step + 1))]
    assert changed == [4, 8, 9]  # 9 is the last sparse step
    for layer in layers:
        assert layer.layout == "dense"
        assert layer.nnz == layer.capacity == int(layer.mask().sum())
        assert torch.equal(layer.dense_weight().flatten(), layer.weight)
    backward(model, 13)
    before = [layer.weight.grad.clone() for layer in layers]
    optimizer.step()
    assert all(torch.equal(layer.weight.grad, grad) for layer, grad in zip(layers, before, strict=True))


def test_a_tail_too_short_for_a_step_is_none():
    method = sx.FST(dense_tail=0.1)
    assert [method.plan({"a": None}, Time(step, 4))["a"] for step in range(5)] == [Choose("transposable")] * 5
    assert not any(method.is_update(Time(step, 4)) for step in range(1, 5))


def test_a_run_resumes_in_its_tail():
    method = sx.FST(refresh_interval=4, dense_tail=0.25)
    model, optimizer, sparsifier = dense_weight_trainer(method, total_steps=20)
    run(model, optimizer, sparsifier, range(1, 18))
    states = copy.deepcopy([thing.state_dict() for thing in (model, optimizer, sparsifier)])
    for order in ((0, 1, 2), (2, 1, 0)):  # the model first, or last
        things = dense_weight_trainer(method, total_steps=20)
        for i in order:
            things[i].load_state_dict(copy.deepcopy(states[i]))  # an optimizer takes over the tensors themselves
        assert all(layer.layout == "dense" for layer in sparse_layers(things[0]).values())
        run(*things, range(18, 21))
        last = everything(*things[:2])
        if order == (0, 1, 2):
            first = last
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(last[key])) for key, value in first.items())


def test_flip_rate_of_the_switch_to_dense():
    model, optimizer, sparsifier = dense_weight_trainer(sx.FST(refresh_interval=4, dense_tail=0.5), total_steps=10)
    run(model, optimizer, sparsifier, range(1, 6))
    for row in sparsifier.report().layers:
        assert row.flip_rate == pytest.approx(0.5 / 1)  # one step after the update in step 4
