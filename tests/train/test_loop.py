"""Loops that call `step()` elsewhere, too often or without its state get a sentence, once; loops that are right get none."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from training import OPTIMIZERS, backward, masks, mlp, run, trainer

import sparse_ext as sx

TOO_OFTEN = "expected one call for every step of the optimizer, got calls without one"
ELSEWHERE = "expected a call after the optimizer's step and before the next forward pass"
NO_STATE = "no state of this Sparsifier was loaded"
OTHERS = "expected the positions of the weights with which the loaded state was saved, got others"


def said(loop):
    """The warnings that come of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop()
    return [str(one.message) for one in caught]


# ---- when step() is called ------------------------------------------------------------------------------------------------


def loop_with(calls, micro_batches=1, method="rigl"):
    """What a loop gets that calls `step()` behind these: the warnings, and whether the patterns changed."""
    model = mlp()
    optimizer, sparsifier = trainer(model, method)

    def at(place):
        if place in calls:
            sparsifier.step()

    def loop():
        for step in range(12 * micro_batches):
            loss = model(torch.randn(4, 12)).square().mean()
            at("forward")
            loss.backward()
            at("backward")
            if (step + 1) % micro_batches == 0:
                optimizer.step()
                at("step")
                optimizer.zero_grad()
                at("zero_grad")
            at("micro-batch")

    before = masks(model)
    sentences = said(loop)
    changed = any(not torch.equal(mask, before[name]) for name, mask in masks(model).items())
    return sentences, changed


@pytest.mark.parametrize("place", ["step", "zero_grad"])
def test_the_right_places(place):
    assert loop_with([place]) == ([], True)
    assert loop_with([place], micro_batches=3) == ([], True)


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_places_where_growth_sees_no_gradient(place):
    """As Lightning's on_before_zero_grad, between forward and backward; and between backward and the optimizer's step."""
    (sentence,), changed = loop_with([place])
    assert ELSEWHERE in sentence
    assert not changed


def assigned(model, optimizer, sparsifier, inner):
    """A loop in which gradients of no backward pass are put into `grad`."""
    parameters = dict(model.named_parameters())
    for _ in range(8):
        x = torch.randn(4, 12)
        if inner:  # torch.func's
            gradients = torch.func.grad(lambda given, x=x: functional_call(model, given, (x,)).square().mean())(parameters)
        else:
            loss = model(x).square().mean()
            gradients = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("gradient_steps", [1, 2])
def test_gradients_that_no_backward_pass_accumulates(gradient_steps, inner):
    model = mlp()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    method = sx.RigL(update_interval=2, t_end=1.0, gradient_steps=gradient_steps)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    (sentence,) = said(lambda: assigned(model, optimizer, sparsifier, inner))
    assert "expected gradients that a backward pass accumulates, got some that were put into weight.grad" in sentence
    optimizer, sparsifier = trainer(mlp(), "set")
    assert said(lambda: assigned(model, optimizer, sparsifier, inner)) == []


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_layer_that_takes_no_part_is_no_such_case(set_to_none):
    model = nn.ModuleDict({"used": sx.SparseLinear(12, 8), "idle": sx.SparseLinear(12, 8)})
    optimizer, sparsifier = trainer(model, kind="sgd")

    def loop():
        for step in range(8):
            part = model["idle" if step == 0 else "used"]
            part(torch.randn(4, 12)).square().mean().backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad(set_to_none=set_to_none)

    assert said(loop) == []


def test_random_growth_needs_none():
    assert loop_with(["backward"], method="set") == ([], True)


def test_a_pattern_that_changes_before_its_backward_pass_is_refused():
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loop_with(["forward"], method="set")


def test_calls_for_every_micro_batch():
    for method in ("set", "rigl"):
        sentences, _ = loop_with(["micro-batch"], micro_batches=2, method=method)
        assert sum(TOO_OFTEN in sentence for sentence in sentences) == 1


def test_steps_that_amp_skips_are_no_such_calls():
    model = mlp()
    optimizer, sparsifier = trainer(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def loop():
        for step in range(8):
            loss = model(torch.randn(4, 12)).square().mean()
            scaler.scale(loss * (float("inf") if step % 2 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            sparsifier.step()
            optimizer.zero_grad()

    assert said(loop) == []


def test_a_later_sparsifier_takes_over():
    model = mlp()
    optimizer, first = trainer(model)
    second = sx.Sparsifier(model, optimizer, sx.SET(), total_steps=10)
    backward(model, 0)
    with pytest.raises(RuntimeError, match="got a later one for 0, 2"):
        first.step()
    del second
    first.step()


# ---- what is loaded -------------------------------------------------------------------------------------------------------


METHOD = sx.RigL(drop_fraction=0.4, update_interval=3, t_end=1.0)  # as `trainer` makes it


def saved_run():
    model = mlp()
    optimizer, sparsifier = trainer(model)
    run(model, optimizer, sparsifier, range(1, 8))
    return model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()


@pytest.mark.parametrize("made_first", [True, False])
def test_a_resume_without_its_state(made_first):
    weights, moments, state = saved_run()
    for with_state in (True, False):
        model = mlp(1)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        things = trainer(model) if made_first else (optimizer, None)
        model.load_state_dict(weights)
        things[0].load_state_dict(moments)
        if not made_first:
            things = (optimizer, sx.Sparsifier(model, optimizer, METHOD, total_steps=100))
        if with_state:
            things[1].load_state_dict(state)
        sentences = said(lambda model=model, things=things: run(model, *things, range(8, 12)))
        assert [NO_STATE in sentence for sentence in sentences] == [True] * (not with_state)


def test_a_state_without_its_weights():
    _, moments, state = saved_run()
    model = mlp(1)
    optimizer, sparsifier = trainer(model)
    optimizer.load_state_dict(moments)
    sparsifier.load_state_dict(state)
    (sentence,) = said(lambda: run(model, optimizer, sparsifier, range(8, 12)))
    assert OTHERS in sentence
    assert "0, 2" in sentence


def test_a_longer_run():
    """total_steps is that of the Sparsifier that goes on; a run that was over changes patterns again."""
    model = mlp()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    method = sx.RigL(update_interval=2, t_end=1.0)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=6)
    run(model, optimizer, sparsifier, range(1, 8))
    longer = sx.Sparsifier(model, optimizer, method, total_steps=20)
    (sentence,) = said(lambda: longer.load_state_dict(sparsifier.state_dict()))
    assert re.search(r"saved with 6, this Sparsifier was made with 20, which counts from now on", sentence)
    assert run(model, optimizer, longer, range(8, 14)) == 3


# ---- casts in the middle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 2, 3, 4])
@pytest.mark.parametrize("gradient_steps", [1, 2])
@pytest.mark.parametrize("layout", ["csr", "2:4"])
def test_a_cast_of_the_model(layout, gradient_steps, when):
    """At every moment of an update: what a signal has kept in float32 serves the weights in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(sx.SparseLinear(12, 16, layout=layout), nn.ReLU(), sx.SparseLinear(16, 6, layout=layout))
    optimizer = OPTIMIZERS["sgd"](model.parameters()) if when == 0 else torch.optim.SGD(model.parameters(), lr=0.1)
    method = sx.RigL(update_interval=3, t_end=1.0, gradient_steps=gradient_steps)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    changed = 0
    for step in range(8):
        if step == when:
            model.double()
        backward(model, step)
        optimizer.step()
        changed += sparsifier.step()
        optimizer.zero_grad()
    assert changed == 2
