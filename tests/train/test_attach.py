"""`attach()`: loops that call only the optimizer, as trainers do. The same loops with `step()` by hand say what is right."""

import copy
import gc
import io
import warnings
import weakref

import pytest
import torch
from torch import nn
from training import CHANGING, OPTIMIZERS, assert_same, backward, everything, method_named, mlp, patterns, run

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

STEPS = 14
CHOICES = {"update_interval": 3, "refresh_interval": 3, "drop_fraction": 0.4, "t_end": 1.0, "dense_tail": 0.3, "mvue": True}


@pytest.fixture(autouse=True)
def no_warnings():
    """A loop that is right gets none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def build(method="rigl", layout="csr", optimizer="adamw", seed=0, **kwargs):
    model = mlp(seed, layout=layout, method=method)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=STEPS, **kwargs)


def outcome(model, optimizer, sparsifier):
    state = sparsifier.state_dict()
    return everything(model, optimizer) | {"step": state["step"], "report": str(sparsifier.report())}


def by_hand(steps=STEPS, **how):
    things = build(**how)
    run(*things, range(1, steps + 1))
    return outcome(*things)


def saved(model, optimizer):
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("method", "layout"), CHANGING)
def test_it_trains_as_by_hand(method, layout):
    model, optimizer, sparsifier = build(method, layout)
    assert sparsifier.attach() is sparsifier is sparsifier.attach()
    run(model, optimizer, None, range(1, STEPS + 1))
    assert_same(outcome(model, optimizer, sparsifier), by_hand(method=method, layout=layout))


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize(("method", "layout"), CHANGING)
def test_the_optimizers_state_resumes_it(method, layout, model_first):
    """Saved in the middle between updates: of the Sparsifier nothing else is saved."""
    model, optimizer, sparsifier = build(method, layout)
    sparsifier.attach()
    run(model, optimizer, None, range(1, 9))
    state = saved(model, optimizer)
    model, optimizer, sparsifier = build(method, layout, seed=5)
    sparsifier.attach()
    for part in (model, optimizer) if model_first else (optimizer, model):
        part.load_state_dict(state["model" if part is model else "optimizer"])
    run(model, optimizer, None, range(9, STEPS + 1))
    assert_same(outcome(model, optimizer, sparsifier), by_hand(method=method, layout=layout))


def test_nobody_else_need_keep_it():
    """One line does; and it ends with the optimizer."""
    model, optimizer, sparsifier = build()
    reference, before = weakref.ref(sparsifier.attach()), patterns(model)
    del sparsifier
    gc.collect()
    run(model, optimizer, None, range(1, 5))
    assert patterns(model) != before
    del optimizer
    gc.collect()
    assert reference() is None


def test_micro_batches_are_one_step():
    model, optimizer, sparsifier = build()
    sparsifier.attach()
    for step in range(12):
        backward(model, step)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert sparsifier.state_dict()["step"] == 6


@pytest.mark.parametrize("kind", ["adamw", "adamw_fused"])
def test_a_step_that_amp_skips_is_none(kind):
    model, optimizer, sparsifier = build(optimizer=kind)
    sparsifier.attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(1, 8):
        loss = model(torch.randn(4, 12)).square().mean()
        scaler.scale(loss * (float("inf") if step in (1, 4) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert sparsifier.state_dict()["step"] == 5


def test_a_closure_counts_once():
    model, optimizer, sparsifier = build(optimizer="sgd")
    sparsifier.attach()

    def closure(step):
        optimizer.zero_grad()
        return backward(model, step)

    for step in range(1, STEPS + 1):
        optimizer.step(lambda step=step: closure(step))
    optimizer.zero_grad()
    assert_same(outcome(model, optimizer, sparsifier), by_hand(optimizer="sgd"))


class Wrapper(torch.optim.Optimizer):
    """Steps the one that it holds, as SAM's second step does, and has its state and groups."""

    def __init__(self, params, base):
        super().__init__(params, {})
        self.base_optimizer, self.param_groups, self.state = base, base.param_groups, base.state

    def second_step(self):
        self.base_optimizer.step()

    def step(self, closure=None):
        self.base_optimizer.step(closure)


@pytest.mark.parametrize("name", ["step", "second_step"])
@pytest.mark.parametrize(("method", "layout"), [("rigl", "csr"), ("fst", "2:4")])
def test_a_wrapper_steps_once(method, layout, name):
    """Masked decay, too, comes once."""
    model = mlp(layout=layout, method=method)
    optimizer = Wrapper(model.parameters(), OPTIMIZERS["adamw"](model.parameters()))
    chosen = method_named(method, **CHOICES)
    sparsifier = sx.Sparsifier(model, optimizer, chosen, total_steps=STEPS).attach()
    for step in range(1, STEPS + 1):
        backward(model, step)
        getattr(optimizer, name)()
        optimizer.zero_grad()
    assert_same(outcome(model, optimizer.base_optimizer, sparsifier), by_hand(method=method, layout=layout))


def test_a_copied_run_goes_on_attached():
    model, optimizer, sparsifier = build()
    sparsifier.attach()
    run(model, optimizer, None, range(1, 6))
    others = copy.deepcopy((model, optimizer, sparsifier))
    for one in ((model, optimizer), others[:2]):
        run(*one, None, range(6, STEPS + 1))
    assert_same(outcome(*others), outcome(model, optimizer, sparsifier))
    assert_same(outcome(*others), by_hand())


def test_calls_by_hand_do_nothing():
    model, optimizer, sparsifier = build()
    sparsifier.attach()
    with pytest.warns(UserWarning, match="expected no call by hand after attach") as caught:
        assert run(model, optimizer, sparsifier, range(1, STEPS + 1)) == 0
    assert len(caught) == 1
    assert_same(outcome(model, optimizer, sparsifier), by_hand())


def test_a_state_that_does_not_fit_is_refused_before_anything_is_loaded():
    model, optimizer, sparsifier = build("set", optimizer="sgd")
    sparsifier.attach()
    run(model, optimizer, None, range(1, 4))
    state = optimizer.state_dict()
    model, optimizer, sparsifier = build("rigl", optimizer="sgd")
    sparsifier.attach()
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="expected the state of method"):
        optimizer.load_state_dict(state)
    assert "sparse_ext" in state
    assert_same(everything(model, optimizer), before)


def test_what_cannot_be_attached():
    *_, sparsifier = build(replace_step=True)
    with pytest.raises(ValueError, match="attach: expected replace_step=False, got True"):
        sparsifier.attach()
    first, second = mlp(0), mlp(1)
    optimizer = OPTIMIZERS["sgd"]([*first.parameters(), *second.parameters()])
    one, other = (sx.Sparsifier(model, optimizer, sx.SET(), total_steps=900) for model in (first, second))
    one.attach()
    with pytest.raises(ValueError, match="attach: expected one Sparsifier for an optimizer, got a second one"):
        other.attach()


def test_a_cell_that_runs_twice():
    """The second Sparsifier takes the first one's place, also for masked decay."""
    model, optimizer, first = build("fst", "2:4", "sgd")
    first.attach()
    second = sx.Sparsifier(model, optimizer, first.method, total_steps=STEPS).attach()
    run(model, optimizer, None, range(1, STEPS + 1))
    assert (first.state_dict()["step"], second.state_dict()["step"]) == (0, STEPS)
    assert_same(outcome(model, optimizer, second), by_hand(method="fst", layout="2:4", optimizer="sgd"))


@pytest.mark.parametrize(("method", "layout"), [("set", "csr"), ("fst", "2:4")])
def test_the_trial_step_of_distributed_checkpoints_is_none(method, layout):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model, optimizer, sparsifier = build(method, layout)
    sparsifier.attach()
    get_optimizer_state_dict(model, optimizer)
    assert sparsifier.state_dict()["step"] == 0
    for layer in sparse_layers(model).values():
        assert not optimizer.state[layer.weight]["exp_avg"].any()


def test_a_compiled_step():
    model, optimizer, sparsifier = build(optimizer="sgd")
    sparsifier.attach()
    compiled = torch.compile(optimizer.step, backend="eager")
    for step in range(1, 8):
        backward(model, step)
        compiled()
        optimizer.zero_grad()
    assert_same(outcome(model, optimizer, sparsifier), by_hand(7, optimizer="sgd"))


@pytest.mark.parametrize("order", ["gd", "dg", "dgd"])
def test_of_several_optimizers_the_first_counts(order):
    """A GAN whose discriminator is frozen while its generator trains; `step()` by hand comes behind the generator's step."""

    def gan(attached):
        torch.manual_seed(0)
        model = nn.ModuleDict({"g": sx.SparseLinear(4, 12, sparsity=0.6), "d": sx.SparseLinear(12, 20)})
        optimizers = {name: torch.optim.AdamW(part.parameters(), lr=0.01) for name, part in model.items()}
        sparsifier = sx.Sparsifier(model, list(optimizers.values()), method_named("rigl", **CHOICES), total_steps=STEPS)
        if attached:
            sparsifier.attach()
        for step in range(STEPS):
            for turn in order:
                model["d"].requires_grad_(turn == "d")
                z = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
                (model["d"](model["g"](z)).tanh().mean() * (1 if turn == "g" else -1)).backward()
                optimizers[turn].step()
                if turn == "g" and not attached:
                    sparsifier.step()
                for optimizer in optimizers.values():
                    optimizer.zero_grad()
        report = sparsifier.report()
        assert report.step == STEPS
        assert all(row.replaced > 0 for row in report.layers)
        state = optimizers["g"].state_dict()
        assert ("sparse_ext" in state) == attached
        return dict(model.state_dict()) | {"report": str(report)}

    assert_same(gan(True), gan(False))
