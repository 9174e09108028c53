"""What is frozen ends with the Sparsifier that froze it: a later one, copies and pickles begin with all of a layer."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from training import mlp, run

import sparse_ext as sx
from sparse_ext.methods import Regrow


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 6))


def frozen(model, **choices):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, sx.SAT(active=0.3, update_interval=2, **choices), total_steps=20)
    run(model, optimizer, sparsifier, range(1, 5))
    return optimizer, sparsifier


def share_with_gradient(model):
    model.zero_grad()
    model(torch.randn(50, 12)).square().mean().backward()
    grads = [layer.weight.grad for layer in (model[0], model[2])]
    return [0.0 if grad is None else float((grad != 0).float().mean()) for grad in grads]


@pytest.mark.parametrize("granularity", ["element", "row", "layer"])
def test_a_later_sparsifier_trains_all(granularity):
    model = mlp(sparsity=0.5)
    optimizer, old = frozen(model, granularity=granularity)
    assert min(share_with_gradient(model)) < 0.6
    new = sx.Sparsifier(model, optimizer, sx.Static(), total_steps=10)
    assert min(share_with_gradient(model)) > 0.8  # the second layer has unused slots
    del old
    gc.collect()
    assert min(share_with_gradient(model)) > 0.8
    del new


def test_copies_and_pickles_of_a_dense_layer_are_plain():
    model = dense()
    _, sparsifier = frozen(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other[0]) is nn.Linear
        assert share_with_gradient(other) == [1.0, 1.0]
        sx.sparsify_(other, 0.5)
        assert isinstance(other[0], sx.SparseLinear)
    assert type(model[0]) is not nn.Linear
    del sparsifier


def test_a_copied_run_freezes_what_the_run_does():
    model = dense()
    optimizer, sparsifier = frozen(model)
    copied = copy.deepcopy((model, optimizer, sparsifier))
    for trio in ((model, optimizer, sparsifier), copied):
        run(*trio, range(5, 11))
    for one, other in zip(model.parameters(), copied[0].parameters(), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(1)
    assert max(share_with_gradient(copied[0])) < 0.6


def test_attach_wants_one_optimizer_for_what_is_scored():
    model = mlp()
    optimizers = [torch.optim.SGD(model[at].parameters(), lr=0.1) for at in (0, 2)]
    sparsifier = sx.Sparsifier(
        model, optimizers, sx.Together(sx.RigL(update_interval=2), sx.SAT(update_interval=2)), total_steps=9
    )
    with pytest.raises(ValueError, match=r"attach: expected one optimizer .* others for 2.*call step\(\) by hand"):
        sparsifier.attach()


def test_the_state_of_what_is_frozen_is_not_renewed():
    model = mlp(sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = sx.Together(sx.RigL(update_interval=100), sx.SAT(active=0.3, update_interval=2))
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=200)
    run(model, optimizer, sparsifier, range(1, 6))
    managed = sparsifier._layers[0]
    trains, before = managed.part.slots(), optimizer.state[model[0].weight]["momentum_buffer"].clone()
    managed.carry_out(Regrow(0, 0, fresh_state=True), 0)
    after = optimizer.state[model[0].weight]["momentum_buffer"]
    assert torch.equal(after[~trains], before[~trains])
    assert not after[trains].any()


@pytest.mark.parametrize(
    "method", [sx.MEST(soft=True, mutation=(0.5,), until=(0.9,), update_interval=2), sx.SNFS(update_interval=2)]
)
def test_layers_of_layout_auto_get_the_room_that_a_method_asks_for_later(method):
    torch.manual_seed(0)
    model = sx.sparsify_(nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 6)), 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=20)
    sizes = set()
    for step in range(1, 12):
        run(model, optimizer, sparsifier, range(step, step + 1))
        sizes.add(model[0].nnz)
    assert len(sizes) > 1


@pytest.mark.parametrize("method", [sx.RigL(), sx.RigL(update_interval=2, t_end=1), sx.SAT()])
def test_a_run_in_which_nothing_would_change_is_told(method):
    model = mlp()
    with pytest.warns(UserWarning, match="changes nothing in 20 steps"):
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=20)


@pytest.mark.parametrize("method", ["rigl", sx.RigL, {"*": "rigl"}])
def test_names_and_classes_are_no_methods(method):
    model = mlp()
    with pytest.raises(TypeError, match=r"expected a method such as RigL\(\)"):
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=20)
    with pytest.raises(TypeError, match=r"expected a method such as RigL\(\)"):
        sx.sparsify_(dense(), 0.5, method=method)


def test_together_needs_sparse_layers_for_what_changes_patterns():
    model = dense()
    with pytest.raises(ValueError, match="expected sparse layers for RigL, got dense ones alone"):
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sx.Together(sx.RigL(), sx.SAT()), total_steps=2000)
