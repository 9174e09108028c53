"""Weights that are loaded in the middle of a run, with another pattern: what belongs to a position stays that position's."""

import copy
import warnings

import pytest
import torch
from training import OPTIMIZERS, PATTERNS, backward, everything, method_named, mlp, run, slots, spread

import sparse_ext as sx
from sparse_ext.nn import sparse_layers


def build(layout, kind, method="set", seed=0):
    model = mlp(seed, layout=layout)
    optimizer = OPTIMIZERS[kind](model.parameters())
    chosen = method_named(method, update_interval=2, drop_fraction=0.5, t_end=1.0)
    return model, optimizer, sx.Sparsifier(model, optimizer, chosen, total_steps=100)


def spreads(model, optimizer):
    """All that has one value for each slot, by position."""
    return [
        {name: spread(layer, values) for name, values in slots(layer, optimizer).items() if name != "weight"}
        for layer in sparse_layers(model).values()
    ]


def past_and_present(layout, kind):
    """A run at step 11 with gradients, and what the model and the optimizer were at step 4."""
    model, optimizer, sparsifier = build(layout, kind)
    run(model, optimizer, sparsifier, range(1, 5))
    best = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    run(model, optimizer, sparsifier, range(5, 12))
    return model, optimizer, sparsifier, best


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("layout", PATTERNS)
def test_moments_follow_weights_that_are_rolled_back(layout, kind):
    model, optimizer, sparsifier, (weights, *_) = past_and_present(layout, kind)
    backward(model, 12)
    before = spreads(model, optimizer)
    model.load_state_dict(weights)
    for layer, then, now in zip(sparse_layers(model).values(), before, spreads(model, optimizer), strict=True):
        used = layer.mask().view(-1)
        for name, values in now.items():
            assert torch.equal(values, then[name] * used), name
        assert any((then[name] * ~used).any() for name in now)
    assert torch.equal(model[0].weight, weights["0.weight"])
    optimizer.step()
    sparsifier.step()


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("layout", PATTERNS)
def test_a_rollback_of_both_is_the_past(layout, model_first):
    """Whichever comes first: loaded moments belong to loaded weights."""
    model, optimizer, sparsifier, (weights, moments, state) = past_and_present(layout, "adamw")
    for part, loaded in ((model, weights), (optimizer, moments))[:: 1 if model_first else -1]:
        part.load_state_dict(loaded)
    sparsifier.load_state_dict(state)
    again = everything(model, optimizer)
    for key, value in weights.items():
        assert torch.equal(again[f"model.{key}"], value)
    for index, values in moments["state"].items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(again[f"optimizer.{index}.{key}"]), torch.as_tensor(value))
    run(model, optimizer, sparsifier, range(5, 12))
    straight = past_and_present(layout, "adamw")
    for key, value in everything(*straight[:2]).items():
        assert torch.equal(torch.as_tensor(everything(model, optimizer)[key]), torch.as_tensor(value))


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("layout", PATTERNS)
def test_a_rollback_right_after_a_resume(layout, model_first, attached):
    """The loaded moments belong to the weights that the run was saved with, not to those that are loaded after these."""
    model, optimizer, sparsifier, (earlier, *_) = past_and_present(layout, "adamw")
    if attached:
        sparsifier.attach()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    model, optimizer, sparsifier = build(layout, "adamw", seed=1)
    if attached:
        sparsifier.attach()
    for part, loaded in list(zip((model, optimizer), saved, strict=False))[:: 1 if model_first else -1]:
        part.load_state_dict(loaded)
    if not attached:
        sparsifier.load_state_dict(saved[2])
    before = spreads(model, optimizer)
    model.load_state_dict(earlier)
    for layer, then, now in zip(sparse_layers(model).values(), before, spreads(model, optimizer), strict=True):
        for name, values in now.items():
            assert torch.equal(values, then[name] * layer.mask().view(-1)), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, optimizer, None if attached else sparsifier, range(12, 15))


@pytest.mark.parametrize("average_too", [True, False])
@pytest.mark.parametrize("layout", PATTERNS)
def test_a_tracked_average_follows(layout, average_too):
    model, optimizer, sparsifier = build(layout, "sgd")
    average = copy.deepcopy(model)
    sparsifier.track(average)
    run(model, optimizer, sparsifier, range(1, 5))
    best = copy.deepcopy((model.state_dict(), average.state_dict()))
    run(model, optimizer, sparsifier, range(5, 9))
    before = average[0].dense_weight()
    if average_too:
        average.load_state_dict(best[1])
    model.load_state_dict(best[0])
    assert torch.equal(average[0].mask(), model[0].mask())
    expected = best[1]["0.weight"] if average_too else None
    if average_too:
        assert torch.equal(average[0].weight, expected)
    else:
        assert torch.equal(average[0].dense_weight(), before * model[0].mask())
    run(model, optimizer, sparsifier, range(9, 13))
    assert torch.equal(average[0].mask(), model[0].mask())


def test_a_model_is_pickled_and_copied_with_its_hooks(tmp_path):
    model, optimizer, sparsifier = build("csr", "sgd")
    torch.save(model, tmp_path / "model")
    loaded = torch.load(tmp_path / "model", weights_only=False)
    loaded.load_state_dict(copy.deepcopy(model).state_dict())
    del sparsifier
    run(model, optimizer, None, range(1, 3))
    model.load_state_dict(loaded.state_dict())
