"""A Sparsifier and dense weights: their form, masked decay beside clipping and scaling, the dense tail, sampled gradients."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from training import DENSE_WEIGHT, OPTIMIZERS, backward, dense_weight_trainer, everything, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import reference

# ---- from packed to dense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", DENSE_WEIGHT)
def test_a_packed_weight_becomes_dense(method):
    model = mlp(layout="2:4")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    run(model, optimizer, None, range(1, 4))
    backward(model, 4)
    layers = sparse_layers(model)

    def dense(values, layer):
        return reference.nm24_unpack(values.view(layer.pattern.rows, -1), layer.ids, layer.pattern.cols).flatten()

    before = {
        name: [
            dense(values.detach().clone(), layer)
            for values in (layer.weight, layer.weight.grad, optimizer.state[layer.weight]["exp_avg"])
        ]
        for name, layer in layers.items()
    }
    parameters = [id(p) for p in model.parameters()]
    sparsifier = sx.Sparsifier(model, optimizer, method_named(method), total_steps=100)
    assert [id(p) for p in model.parameters()] == parameters
    for name, layer in layers.items():
        assert layer.capacity == layer.pattern.rows * layer.pattern.cols
        now = (layer.weight.detach(), layer.weight.grad, optimizer.state[layer.weight]["exp_avg"])
        for value, was in zip(now, before[name], strict=True):
            assert torch.equal(value, was)
    optimizer.zero_grad()
    run(model, optimizer, sparsifier, range(5, 9))


BAD = {
    "a rule that csr does not know": (
        lambda: (mlp(), sx.FST()),
        "FST chooses 'transposable' of dense weights: expected layers of layout '2:4', got others: 0, 2",
    ),
    "regrowth of a dense weight": (
        lambda: (mlp(layout="2:4", method="fst"), sx.RigL()),
        "RigL regrows packed weights, got layers that hold a dense weight: 0, 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_methods_and_layouts_that_do_not_fit(case):
    model, method = BAD[case][0]()
    with pytest.raises(ValueError, match=BAD[case][1]):
        sx.Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), method, total_steps=10)


@pytest.mark.parametrize("method", DENSE_WEIGHT)
def test_no_step_can_be_replaced(method):
    with pytest.raises(ValueError, match="between optimizer steps: expected replace_step=False, got True"):
        dense_weight_trainer(method_named(method), replace_step=True)


@pytest.mark.parametrize(("kind", "choices"), [
    (sx.SRSTE, {"decay": -1.0}), (sx.SRSTE, {"decay": float("nan")}), (sx.FST, {"decay": float("inf")}),
    (sx.FST, {"refresh_interval": 0}), (sx.FST, {"refresh_interval": 1.5}), (sx.FST, {"dense_tail": 1.1}),
])  # fmt: skip
def test_impossible_choices_get_a_sentence(kind, choices):
    ((name, value),) = choices.items()
    with pytest.raises(ValueError, match=rf"expected .*{name}.*, got {value}"):
        kind(**choices)


# ---- masked decay ----------------------------------------------------------------------------------------------------


def left_out(layer):
    return layer.weight.detach() * ~layer.mask().flatten()


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_decay_is_added_once_and_behind_clipping(micro_batches):
    model, optimizer, sparsifier = dense_weight_trainer(sx.SRSTE(decay=0.5))
    layers = list(sparse_layers(model).values())
    for step in range(micro_batches):
        backward(model, step)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    before = [(layer.weight.grad.clone(), left_out(layer)) for layer in layers]
    optimizer.step()
    for layer, (grad, rest) in zip(layers, before, strict=True):
        assert rest.count_nonzero() > 50
        torch.testing.assert_close(layer.weight.grad, grad + 0.5 * rest)
    del sparsifier


@pytest.mark.parametrize("fused", [False, True])
def test_decay_is_not_divided_by_the_loss_scale(fused):
    """Fused optimizers divide gradients by the scale themselves; the others get them divided."""
    outcomes = []
    for scaled in (False, True):
        model = mlp(layout="2:4", method="fst")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        sparsifier = sx.Sparsifier(model, optimizer, sx.SRSTE(decay=0.5), total_steps=10)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        x, y = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 6
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        sparsifier.step()
        outcomes.append([layer.weight.detach().clone() for layer in sparse_layers(model).values()])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


def test_decay_ends_with_its_sparsifier():
    model, optimizer, sparsifier = dense_weight_trainer(sx.SRSTE(decay=0.5))
    del sparsifier
    gc.collect()
    backward(model, 1)
    before = [layer.weight.grad.clone() for layer in sparse_layers(model).values()]
    optimizer.step()
    for layer, grad in zip(sparse_layers(model).values(), before, strict=True):
        assert torch.equal(layer.weight.grad, grad)


def test_a_copied_run_goes_on_alike():
    model, optimizer, sparsifier = dense_weight_trainer(sx.FST(decay=0.1, refresh_interval=3), "adamw")
    run(model, optimizer, sparsifier, range(1, 8))
    others = copy.deepcopy((model, optimizer, sparsifier))
    for one in ((model, optimizer, sparsifier), others):
        run(*one, range(8, 15))
    mine, theirs = everything(model, optimizer), everything(*others[:2])
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[key])) for key, value in mine.items())


def test_a_closure_gets_its_decay():
    model, optimizer, _sparsifier = dense_weight_trainer(sx.SRSTE(decay=0.5))
    layer, calls = model[0], []

    def closure():
        optimizer.zero_grad()
        calls.append(backward(model, 1))
        calls.append(layer.weight.grad.clone())
        return calls[0]

    rest = left_out(layer)
    assert optimizer.step(closure) is calls[0]
    torch.testing.assert_close(layer.weight.grad, calls[1] + 0.5 * rest)
    optimizer.step(closure=closure)
    assert len(calls) == 4


# ---- what else follows ------------------------------------------------------------------------------------------------


def test_flip_rate():
    model, optimizer, sparsifier = dense_weight_trainer(sx.FST(refresh_interval=4))
    assert all(row.flip_rate is None for row in sparsifier.report().layers)
    layers = sparse_layers(model)
    run(model, optimizer, sparsifier, range(1, 8))
    before = {name: layer.mask() for name, layer in layers.items()}
    run(model, optimizer, sparsifier, range(8, 11))
    for row in sparsifier.report().layers:
        flipped = (before[row.name] != layers[row.name].mask()).float().mean()
        assert row.flip_rate == pytest.approx(float(flipped) / 4)
        assert row.replaced_last == pytest.approx(float(flipped))  # half of the flips, over half of the positions


@pytest.mark.parametrize("method", DENSE_WEIGHT)
def test_a_tracked_copy_takes_the_same_positions(method):
    model, optimizer, sparsifier = dense_weight_trainer(method_named(method, refresh_interval=2))
    average = AveragedModel(model)
    sparsifier.track(average)
    run(model, optimizer, sparsifier, range(1, 6))
    for mine, theirs in zip(sparse_layers(model).values(), sparse_layers(average).values(), strict=True):
        assert torch.equal(mine.mask(), theirs.mask())
        assert (mine.layout, mine.chosen_by) == (theirs.layout, theirs.chosen_by)


def test_sampled_gradients_are_right_on_average():
    model, _, sparsifier = dense_weight_trainer(sx.FST())
    layer = model[0]
    x, dy = torch.randn(16, 12), torch.randn(16, 20)
    gradients = []
    for _ in range(3000):
        layer.weight.grad = None
        layer(x).backward(dy)
        gradients.append(layer.weight.grad)
    gradients = torch.stack(gradients)
    error = (gradients.mean(0) - (dy.T @ x).flatten()) / (gradients.std(0) / 3000**0.5)
    assert error.abs().max() < 5  # of 240 positions
    assert gradients.std(0).min() > 0
    del sparsifier


def test_state_dict_is_a_snapshot_and_every_ranks():
    """How many numbers were used, not which: these follow from the seed, the layer and the rank."""
    model, optimizer, sparsifier = dense_weight_trainer(sx.FST())
    run(model, optimizer, sparsifier, range(1, 4))
    state = sparsifier.state_dict()
    assert state["offsets"] == {"0": 3, "2": 3}
    backward(model, 4)
    assert state["offsets"] == {"0": 3, "2": 3}
    key = int(model[0].rng[0])
    sparsifier.load_state_dict(state)
    assert model[0].rng.tolist() == [key, 3]


def test_a_state_goes_on_in_another_layout():
    """It speaks of positions: the model's checkpoint decides whether the layer can hold them."""
    sparsifiers = {}
    for layout in ("2:4", "csr"):
        model = mlp(layout=layout)
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        sparsifiers[layout] = sx.Sparsifier(model, optimizer, sx.SET(update_interval=2, t_end=1.0), total_steps=10)
    run(mlp(), optimizer, sparsifiers["2:4"], range(1, 6))
    sparsifiers["csr"].load_state_dict(sparsifiers["2:4"].state_dict())
    rows = [[layer.coverage for layer in sparsifiers[layout].report().layers] for layout in ("2:4", "csr")]
    assert rows[0] == rows[1]


def test_the_next_method_need_not_sample():
    model, optimizer, _sparsifier = dense_weight_trainer(sx.FST())
    assert all(layer.rng is not None for layer in sparse_layers(model).values())
    sx.Sparsifier(model, optimizer, sx.SRSTE(), total_steps=10)
    assert all(layer.rng is None for layer in sparse_layers(model).values())
    assert all(layer.chosen_by.name == "largest" for layer in sparse_layers(model).values())


def test_every_layer_and_rank_samples_for_itself():
    seeds = set()
    for seed in (0, 1):
        model, _, sparsifier = dense_weight_trainer(sx.FST(), seed=seed)
        seeds |= {int(layer.rng[0]) for layer in sparse_layers(model).values()}
        seeds.add(sparsifier._stream("draw/1/0"))  # of the second rank's first layer
    assert len(seeds) == 6
