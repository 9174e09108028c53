"""Layers that are frozen keep pattern and values, whatever the method; those that thaw go on."""

import pytest
import torch
from sampling import others_slow
from torch import nn
from training import CHANGING, OPTIMIZERS, active, backward, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.methods import Time

STEPS = 60
CHOICES = {"update_interval": 2, "refresh_interval": 2, "drop_fraction": 0.4, "t_end": 1.0, "extra": 0.5}


def build(method, layout, frozen=False, optimizer="sgd"):
    model = mlp(layout=layout, method=method)
    model[0].requires_grad_(not frozen)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=STEPS)


def first_update(method):
    chosen = method_named(method, **CHOICES)
    return next(step for step in range(1, STEPS) if chosen.is_update(Time(step, STEPS)))


def changes(layer, trio, steps):
    """How many updates come in these steps, and how many patterns the layer has in them."""
    changed, seen = 0, {str(active(layer).tolist())}
    for step in steps:
        changed += run(*trio, range(step, step + 1))
        seen.add(str(active(layer).tolist()))
    return changed, len(seen)


def stored(layer):
    return [layer.weight.detach().clone(), *(buffer.clone() for buffer in layer.buffers())]


def same(layer, before):
    return all(torch.equal(now, then) for now, then in zip(stored(layer), before, strict=True))


def leave(optimizer, parameters):
    group = optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if all(p is not other for other in parameters)]


@pytest.mark.parametrize("how", ["requires_grad_", "leaves the optimizer"])
@pytest.mark.parametrize(("method", "layout"), others_slow(CHANGING))
def test_a_layer_that_is_frozen_later(method, layout, how):
    model, optimizer, sparsifier = build(method, layout)
    first = first_update(method)
    run(model, optimizer, sparsifier, range(1, first + 2))
    held = list(model[0].parameters())
    if how == "requires_grad_":
        model[0].requires_grad_(False)
    else:
        leave(optimizer, held)
    before = stored(model[0])
    updates, patterns = changes(model[2], (model, optimizer, sparsifier), range(first + 2, first + 10))
    assert updates >= 3
    assert patterns > 1
    assert same(model[0], before)
    assert [row.frozen for row in sparsifier.report().layers] == [True, False]
    assert "frozen" in str(sparsifier.report()).splitlines()[1]

    if how == "requires_grad_":
        model[0].requires_grad_(True)
    else:
        optimizer.param_groups[0]["params"] += held
    assert changes(model[0], (model, optimizer, sparsifier), range(first + 10, STEPS - 12))[1] > 1
    assert not sparsifier.report().layers[0].frozen


@pytest.mark.parametrize(("method", "layout"), others_slow(CHANGING))
def test_a_layer_that_was_frozen_at_first(method, layout):
    """It gets what the method needs when it thaws, such as a dense weight."""
    model = mlp(layout=layout, method=method if sx.METHODS[method].changes_density else "static")
    model[0].requires_grad_(False)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    before, length = stored(model[0]), model[0].capacity
    sparsifier = sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=STEPS)
    first = first_update(method)
    run(model, optimizer, sparsifier, range(1, first + 6))
    assert same(model[0], before)
    assert model[0].capacity == length
    model[0].requires_grad_(True)
    assert changes(model[0], (model, optimizer, sparsifier), range(first + 6, STEPS - 12))[1] > 1
    state, row = sparsifier.state_dict(), sparsifier.report().layers[0]
    assert row.replaced > 0 or sparsifier.method.changes_density
    sparsifier.load_state_dict(state)


def test_the_rest_trains_as_if_it_were_alone():
    """Freezing one layer changes no other's pattern, and no random number."""
    outcomes = []
    for frozen in (False, True):
        model, optimizer, sparsifier = build("set", "csr")
        if frozen:
            model[0].requires_grad_(False)
        with torch.no_grad():
            model[0].weight.zero_()
        optimizer.param_groups[0]["lr"] = 0.0
        run(model, optimizer, sparsifier, range(1, 8))
        outcomes.append(active(model[2]))
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("generator_first", [True, False])
def test_a_discriminator_frozen_while_the_generator_trains(method, generator_first):
    """It is trained all the same: its pattern changes by the gradient of its own loss, wherever `step()` is called."""
    torch.manual_seed(0)
    discriminator = nn.Sequential(sx.SparseLinear(12, 20), nn.Tanh(), nn.Linear(20, 1))
    generator = nn.Linear(4, 12)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (discriminator, generator)]
    sparsifier = sx.Sparsifier(discriminator, optimizers[0], method_named(method, **CHOICES), total_steps=STEPS)
    changed = 0
    for _ in range(8):
        for is_generator in (generator_first, not generator_first):
            discriminator.requires_grad_(not is_generator)
            discriminator(generator(torch.randn(8, 4))).mean().mul(1 - 2 * is_generator).backward()
            optimizers[is_generator].step()
            if is_generator:
                changed += sparsifier.step()  # as if attached to the generator's optimizer
            for optimizer in optimizers:
                optimizer.zero_grad()
    assert changed == 4


def test_a_state_from_before_frozen_layers_were_in_it():
    model, optimizer, sparsifier = build("rigl", "csr", frozen=True)
    run(model, optimizer, sparsifier, range(1, 6))
    state = sparsifier.state_dict()
    for value in state.values():
        if isinstance(value, dict):
            value.pop("0", None)
    model, optimizer, other = build("rigl", "csr", frozen=True)
    other.load_state_dict(state)
    assert other.report().layers[1] == sparsifier.report().layers[1]


def test_parts_need_no_method_for_what_is_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    sparsifier = sx.Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), {"2": sx.SET()}, total_steps=9)
    assert [row.name for row in sparsifier.report().layers] == ["2"]


def test_masked_decay_leaves_a_frozen_weight():
    model, optimizer, sparsifier = build("sr-ste", "2:4")
    backward(model, 1)
    model[0].requires_grad_(False)
    grad = model[0].weight.grad.clone()
    optimizer.step()
    assert torch.equal(model[0].weight.grad, grad)
    sparsifier.step()


def test_other_parameters_than_the_optimizers_are_noticed():
    model, optimizer, sparsifier = build("set", "csr")
    run(model, optimizer, sparsifier, range(1, 4))
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    before = stored(model[0])
    with pytest.warns(UserWarning, match="got other Parameters in 0, 2, as by load_state_dict") as caught:
        run(model, optimizer, sparsifier, range(4, 9))
    assert len(caught) == 1
    assert same(model[0], before)
