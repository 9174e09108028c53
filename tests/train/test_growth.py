"""What growth sees: the dense gradient of the whole step, its own copy of it, once, and only if it is finite."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from training import (
    KINDS,
    ONE,
    OPTIMIZERS,
    assert_same,
    at,
    backward,
    batch,
    chosen_layer,
    constant_rigl,
    everything,
    masks,
    mlp,
    positions,
    push,
    rigl,
    single,
)

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

# ---- the sum over micro-batches ------------------------------------------------------------------------------------


def test_micro_batches_are_summed_before_the_magnitude():
    model, optimizer, sparsifier = single()
    push(model, at(2, 9.0) + at(7, 1.0))
    push(model, at(2, -9.0) + at(7, 1.0))
    optimizer.step()
    assert sparsifier.step()
    assert positions(model[0]).tolist() == [1, 4, 5, 7]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_accumulation_equals_one_big_batch(kind, parts):
    models = {count: mlp(dtype=torch.float64, kind=kind) for count in (1, parts)}
    trainers = {n: rigl(model) for n, model in models.items()}
    for step in range(1, 13):
        x, y = batch(step, size=32, dtype=torch.float64)
        changed = []
        for n, model in models.items():
            optimizer, sparsifier = trainers[n]
            for xs, ys in zip(x.chunk(n), y.chunk(n), strict=True):
                (nn.functional.cross_entropy(model(xs), ys) / n).backward()
            optimizer.step()
            changed.append(sparsifier.step())
            optimizer.zero_grad()
        assert changed == [step % 3 == 0] * 2
        assert_same(masks(models[parts]), masks(models[1]))


def test_nothing_of_an_earlier_step_is_left():
    """An update at step 3 sees the gradient of step 3 alone, and between updates no dense gradient is kept."""
    model = nn.Sequential(chosen_layer(torch.tensor(ONE)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=3, t_end=1.0, schedule="constant")
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    for gradient, changes in ((at(2, 9.0), False), (at(2, 9.0), False), (at(7, 1.0), True)):
        push(model, gradient)
        optimizer.step()
        assert sparsifier.step() == changes
    assert positions(model[0]).tolist() == [1, 4, 5, 7]


def test_forward_passes_without_backward_do_not_count():
    model, optimizer, sparsifier = single()
    model.eval()
    with torch.no_grad():
        model(torch.randn(5, 4))
    model(torch.randn(5, 4))  # a graph that nobody walks
    model.train()
    push(model, at(3, 1.0))
    optimizer.step()
    assert sparsifier.step()
    assert positions(model[0]).tolist() == [1, 3, 4, 5]


# ---- its own copy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tamper",
    [
        lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        lambda model: nn.utils.clip_grad_value_(model.parameters(), 1e-6),
        lambda model: [p.grad.mul_(-7.0) for p in model.parameters()],
    ],
    ids=["clip norm", "clip value", "scale"],
)
def test_growth_does_not_depend_on_what_happens_to_grad(tamper):
    grown = []
    for touch in (lambda model: None, tamper):
        model = mlp()
        optimizer, sparsifier = rigl(model, interval=1)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        backward(model, 1)
        touch(model)
        optimizer.step()
        assert sparsifier.step()
        grown.append(masks(model))
    assert_same(*grown)


def test_growth_follows_the_gradient_of_the_step_it_counts():
    """`grad` moves with the slots: what the optimizer would do next belongs to the right weights."""
    model, _, sparsifier = single(lr=1.0)
    gradient = torch.arange(1.0, 9.0).view(2, 4)
    push(model, gradient)
    assert sparsifier.step()
    layer = model[0]
    assert positions(layer).tolist() == [1, 4, 5, 7]
    assert layer.weight.grad.tolist() == [2.0, 5.0, 6.0, 0.0]


# ---- recomputation, compilation of the paper's variant -------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_does_not_count_twice(use_reentrant):
    plain, checked = mlp(), mlp()
    trainers = [rigl(plain), rigl(checked)]
    for step in range(1, 10):
        x, y = batch(step)
        for model, (optimizer, sparsifier) in zip((plain, checked), trainers, strict=True):
            if model is checked:
                out = checkpoint(model, x.requires_grad_(), use_reentrant=use_reentrant)
                # A second part, counted once: were the first counted twice, their sum would be another.
                out = out + model(x)
            else:
                out = model(x) + model(x)
            nn.functional.cross_entropy(out, y).backward()
            optimizer.step()
            assert sparsifier.step() == (step % 3 == 0)
            optimizer.zero_grad()
        assert_same(masks(checked), masks(plain))
    for one, other in zip(sparse_layers(plain).values(), sparse_layers(checked).values(), strict=True):
        assert torch.equal(one.weight, other.weight)


def test_replace_step_takes_the_place_of_the_optimizer_step():
    model = mlp()
    optimizer, sparsifier = rigl(model, "adamw", replace_step=True)
    for step in range(1, 10):
        backward(model, step)
        before = everything(model, optimizer)
        weights = {name: layer.dense_weight() for name, layer in sparse_layers(model).items()}
        changed = sparsifier.step()
        assert changed == (step % 3 == 0)
        if changed:
            # Nothing but the topology: what is in both patterns is the same, what is new is 0.
            assert all(p.grad is None for p in model.parameters())
            for name, layer in sparse_layers(model).items():
                assert torch.equal(layer.dense_weight(), weights[name] * layer.mask())
            same = everything(model, optimizer)
            for key in ("model.0.bias", "model.4.weight", "model.4.bias"):
                assert torch.equal(same[key], before[key])
        else:
            optimizer.step()
        optimizer.zero_grad()
    assert float(optimizer.state[model[0].weight]["step"]) == 6
    assert sparsifier.report().updates == 3


def test_replace_step_grows_by_the_gradient_before_the_step():
    """Algorithm 1: drop and grow with the weights and the gradient of the same moment."""
    model, _, sparsifier = single(lr=100.0, replace_step=True)
    push(model, at(0, 1.0) + at(7, 2.0))
    assert sparsifier.step()  # 1.0 at position 0 is the weakest: the step that would have made it -99 is not taken
    assert positions(model[0]).tolist() == [1, 4, 5, 7]
    assert model[0].weight.tolist() == [2.0, 3.0, 4.0, 0.0]


# ---- non-finite scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_non_finite_scores_postpone_the_update(bad):
    model, sparsifier = constant_rigl(t_end=1.0)
    # Due at 3, finite at 5; then 6 is due as ever, and 7 is not.
    changes = []
    for step in range(1, 8):
        push(model, at(2 if step < 5 else step, bad if step in (3, 4) else 1.0))
        changes.append(sparsifier.step())
    assert changes == [False, False, False, False, True, True, False]
    assert sparsifier.report().updates == 2


def test_a_postponed_update_survives_a_resume():
    model, sparsifier = constant_rigl(t_end=1.0)
    for value in (1.0, 1.0, float("inf")):
        push(model, at(2, value))
        assert not sparsifier.step()
    other, resumed = constant_rigl(t_end=1.0)
    resumed.load_state_dict(sparsifier.state_dict())
    push(other, at(2, 1.0))
    assert resumed.step()
    assert positions(other[0]).tolist() == [1, 2, 4, 5]


def test_an_update_is_not_postponed_beyond_t_end():
    model, sparsifier = constant_rigl(t_end=5)
    changes = []
    for value in (1.0, 1.0, float("inf"), float("inf"), 1.0, 1.0, 1.0):
        push(model, at(2, value))
        changes.append(sparsifier.step())
    assert not any(changes)
    flops = sx.count_flops(lambda: push(model, at(2, 1.0)))
    assert flops == sx.count_flops(lambda: push(constant_rigl(t_end=5)[0], at(2, 1.0)))  # nor is it waited for


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
def test_a_step_that_amp_skips_postpones_the_update(dtype):
    model = mlp()
    optimizer, sparsifier = rigl(model, interval=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=10**6, backoff_factor=0.5)
    changes, skipped = [], []
    for step in range(1, 8):
        x, y = batch(step)
        if step == 3:
            scaler.update(new_scale=3e38)  # overflows in the backward
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        scaler.scale(loss * 4).backward()
        before, weights = masks(model), model[0].weight.detach().clone()
        scaler.step(optimizer)
        skipped.append(torch.equal(model[0].weight, weights))
        scaler.update(new_scale=2.0)
        changes.append(sparsifier.step())
        assert changes[-1] or all(torch.equal(mask, before[name]) for name, mask in masks(model).items())
        optimizer.zero_grad()
    assert skipped == [step == 3 for step in range(1, 8)]
    assert changes == [False, False, False, True, False, True, False]


def test_the_loss_scale_does_not_change_growth():
    grown = []
    for scale in (1.0, 2.0**16):
        model = mlp()
        optimizer, sparsifier = rigl(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(1, 8):
            x, y = batch(step)
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            sparsifier.step()
            optimizer.zero_grad()
        grown.append(everything(model, optimizer))
    assert_same(*grown)


def test_random_growth_keeps_no_dense_gradient():
    model = mlp()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, sx.SET(update_interval=1, t_end=1.0), total_steps=100)
    flops = sx.count_flops(lambda: backward(model, 1))
    optimizer.step()
    assert sparsifier.step()
    static = mlp()
    assert flops == sx.count_flops(lambda: backward(static, 1))
