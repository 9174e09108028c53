"""A topology update moves what belongs to a weight, all of it and nothing else (reference/methods.md, 1.3)."""

import pytest
import torch
from orders import more, recorded
from torch import nn
from training import (
    CHANGING,
    KINDS,
    OPTIMIZERS,
    PACKED,
    REGROWING,
    active,
    backward,
    chosen_layer,
    everything,
    method_named,
    mlp,
    positions,
    push,
    run,
    slots,
    spread,
    train,
)

import sparse_ext as sx
from sparse_ext.methods import Time
from sparse_ext.nn import sparse_layers

STEPS = 200


def trainer(method, optimizer="sgd", layout="csr", kind="linear", seed=0, **choices):
    model = mlp(seed, layout=layout, kind=kind, method=method)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    choices = {"update_interval": 3, "drop_fraction": 0.4, "t_end": 1.0} | choices
    method = method_named(method, **choices)
    # All of a schedule that changes densities; of the others the first part.
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=24 if method.changes_density else STEPS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("method", "layout"), REGROWING)
@pytest.mark.parametrize("kind", KINDS)
def test_survivors_keep_their_state_and_grown_ones_start_at_zero(kind, method, layout, optimizer):
    model, optimizer, sparsifier = trainer(method, optimizer, layout, kind)
    layers, orders = sparse_layers(model), recorded(sparsifier)
    grown_in_all, steady = 0, not sparsifier.method.changes_density
    for step in range(1, 25):
        backward(model, step)
        optimizer.step()
        before = [(active(one), {k: spread(one, v) for k, v in slots(one, optimizer).items()}) for one in layers.values()]
        orders.clear()
        changed = sparsifier.step()
        assert changed == (step % 3 == 0 if steady else bool(orders and orders[0]))
        for (at, layer), (was_active, old) in zip(layers.items(), before, strict=True):
            anew = changed and getattr(orders[0].get(at), "fresh_state", False)
            now_active, new = active(layer), slots(layer, optimizer)
            assert {"weight", "grad"} < new.keys()
            assert new.keys() == old.keys()
            stays, grown = was_active & now_active, now_active & ~was_active
            grown_in_all += int(grown.sum())
            for name, values in new.items():
                kept = old[name] * (name in ("weight", "grad") or not anew)
                assert torch.equal(spread(layer, values)[stays], kept[stays]), name
                assert not spread(layer, values)[grown].any(), name
                assert not values[layer.slots() < 0].any(), f"{name} where it is unused"
        optimizer.zero_grad(set_to_none=True)
    assert grown_in_all > 100 if steady else sparsifier.report().updates >= 3


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in ("sgd",)])
@pytest.mark.parametrize(("method", "layout"), REGROWING)
def test_the_optimizers_step_counter_is_left_alone(method, layout, optimizer):
    model, optimizer, sparsifier = trainer(method, optimizer, layout)
    run(model, optimizer, sparsifier, range(1, 8))
    for layer in sparse_layers(model).values():
        assert float(optimizer.state[layer.weight]["step"]) == 7


def derived(layer):
    """The pattern's tensors, by name."""
    return {name: value for name, value in vars(layer.pattern).items() if torch.is_tensor(value)}


@pytest.mark.parametrize(("method", "layout"), PACKED)
@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_moves_or_changes_shape(kind, method, layout):
    model, optimizer, sparsifier = trainer(method, layout=layout, kind=kind)

    def addresses():
        tensors = []
        for layer in sparse_layers(model).values():
            tensors += [layer.weight, *layer.buffers(), *derived(layer).values()]
            tensors += [v for k, v in slots(layer, optimizer).items() if k not in ("weight", "grad")]
        return [(t.data_ptr(), t.shape, t.dtype) for t in tensors]

    run(model, optimizer, sparsifier, range(1, 3))  # the optimizer makes its state at its first step
    before, parameters = addresses(), [id(p) for p in model.parameters()]
    changes = run(model, optimizer, sparsifier, range(3, 31))
    if not sparsifier.method.changes_density:
        assert changes == (10 if (method, layout) in REGROWING else 0)
    assert addresses() == before
    assert [id(p) for p in model.parameters()] == parameters


@pytest.mark.parametrize(("method", "layout"), PACKED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_derived_tensors_follow_the_pattern(kind, method, layout):
    model, optimizer, sparsifier = trainer(method, layout=layout, kind=kind)
    x = torch.randn(5, 12)
    for _ in train(model, optimizer, sparsifier, range(1, 13)):
        twin, *_ = trainer(method, layout=layout, kind=kind, seed=1)  # as long weights, other positions
        twin.load_state_dict(model.state_dict())  # derives everything anew
        for layer, other in zip(sparse_layers(model).values(), sparse_layers(twin).values(), strict=True):
            for name, tensor in derived(layer).items():
                assert torch.equal(tensor.int(), derived(other)[name].int()), name
        assert torch.equal(model(x), twin(x))


def test_static_changes_nothing_but_what_the_optimizer_changes():
    model, optimizer, sparsifier = trainer("static")
    alone, own, _ = trainer("static")
    assert run(model, optimizer, sparsifier, range(1, 20)) == 0
    run(alone, own, None, range(1, 20))
    for key, value in everything(alone, own).items():
        assert torch.equal(everything(model, optimizer)[key], value), key


@pytest.mark.parametrize("updates", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method", [one for one, layout in REGROWING if layout == "csr" and not sx.METHODS[one].changes_density]
)
def test_nnz_is_exact_over_many_updates_with_many_ties(method, updates):
    """Weights and gradients take three values each, so nearly every choice is a tie."""
    torch.manual_seed(0)
    method = method_named(method, update_interval=1, t_end=1.0, schedule="constant", drop_fraction=0.37)
    layer = sx.sparsify_(nn.Sequential(nn.Linear(13, 11, bias=False)), 0.7, layout="csr", method=method)[0]
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    total = updates if method.changes_density else 2000
    sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=total)
    nnz, seen, orders = layer.nnz, set(), recorded(sparsifier)
    for _ in range(updates):
        push(layer, torch.randint(-1, 2, (11, 13)).float())
        optimizer.step()
        with torch.no_grad():
            layer.weight[:nnz].copy_(torch.randint(-1, 2, (nnz,)))
        orders.clear()
        assert sparsifier.step() or method.changes_density
        change = more(method, orders[0].get("0") if orders else None)
        nnz = layer.nnz if change is None else nnz + change
        where = positions(layer)
        assert where.numel() == nnz == layer.nnz
        assert (where.diff() > 0).all()
        seen.add(tuple(where.tolist()))
        optimizer.zero_grad(set_to_none=True)
    if method.changes_density:
        assert nnz == layer.target_nnz
        return
    assert len(seen) > 0.9 * updates
    assert sparsifier.report().updates == updates


def hand_made(**kwargs):
    """A layer of 2 x 4 with 4 entries of which each update replaces the weakest one."""
    layer = chosen_layer(torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]), **kwargs)
    optimizer = torch.optim.SGD([layer.weight], lr=0.0, momentum=0.9)
    method = sx.RigL(drop_fraction=0.25, update_interval=1, t_end=1.0, schedule="constant")
    return layer, optimizer, sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=100)


def update(layer, optimizer, sparsifier, gradient):
    push(layer, torch.tensor(gradient))
    optimizer.step()
    assert sparsifier.step()
    optimizer.zero_grad()


def test_a_weight_that_is_dropped_and_grown_again_later_restarts_at_zero():
    layer, optimizer, sparsifier = hand_made()
    update(layer, optimizer, sparsifier, [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 9.0, 0.0]])  # (0, 0) out, (1, 2) in
    assert layer.dense_weight().tolist() == [[0.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]
    assert layer.mask().tolist() == [[False, True, False, False], [True, True, True, False]]
    update(layer, optimizer, sparsifier, [[9.0, 1.0, 0.0, 0.0], [1.0, 1.0, 5.0, 0.0]])  # (1, 2) out, (0, 0) in
    assert layer.mask().tolist() == [[True, True, False, False], [True, True, False, False]]
    assert layer.weight.tolist() == [0.0, 2.0, 3.0, 4.0]
    # What (1, 2) got before it went is gone too; the others remember both steps.
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == pytest.approx([0.0, 1.9, 1.9, 1.9])


def test_a_weight_that_is_dropped_and_grown_in_one_update_keeps_value_and_state():
    layer, optimizer, sparsifier = hand_made()
    update(layer, optimizer, sparsifier, [[9.0, 1.0, 0.0, 0.0], [1.0, 1.0, 3.0, 0.0]])
    assert layer.weight.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [9.0, 1.0, 1.0, 1.0]
    assert sparsifier.report().layers[0].replaced == 0.0


def test_growth_ties_go_to_the_lower_index():
    layer, optimizer, sparsifier = hand_made()
    update(layer, optimizer, sparsifier, [[0.0, 1.0, 5.0, -5.0], [1.0, 1.0, 5.0, 5.0]])
    assert positions(layer).tolist() == [1, 2, 4, 5]


def test_drop_ties_keep_the_lower_index():
    layer, optimizer, sparsifier = hand_made()
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    update(layer, optimizer, sparsifier, [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert positions(layer).tolist() == [0, 1, 4, 7]


def test_a_layer_shared_by_two_places_is_scored_by_the_sum():
    layer, optimizer, sparsifier = hand_made()
    first, second = torch.zeros(2, 4), torch.zeros(2, 4)
    first[0, 2], second[0, 2] = 8.0, -8.0  # cancel
    first[1, 3], second[1, 3] = 1.0, 1.0
    eye = torch.eye(4)
    ((layer(eye) * first.t()).sum() + (layer(eye) * second.t()).sum()).backward()
    optimizer.step()
    assert sparsifier.step()
    assert positions(layer).tolist() == [1, 4, 5, 7]


@pytest.mark.parametrize(("method", "layout"), CHANGING)
def test_a_frozen_layer_stays(method, layout):
    model = mlp(layout=layout, method=method)
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS["sgd"]([p for p in model.parameters() if p.requires_grad])
    method = method_named(method, update_interval=2, refresh_interval=2, t_end=1.0)
    total = 24 if method.changes_density else STEPS
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=total)
    frozen, other = model[0].mask(), model[2].mask()
    assert (
        run(model, optimizer, sparsifier, range(1, 15))
        == sum(method.is_update(Time(step, total)) for step in range(1, 15))
        >= 3
    )
    assert torch.equal(model[0].mask(), frozen)
    assert not torch.equal(model[2].mask(), other)
