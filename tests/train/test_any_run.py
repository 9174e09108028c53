"""What users do in a run, in any order: it agrees with dense tensors and masks in plain PyTorch after every step.

The masks are those that the sparse layers have after each update; what an update must have done is checked by itself.
"""

import copy
import io

import pytest
import torch
from cases import RESUMED
from dense_run import STEPS_BY, DenseRun, dense_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training import PATTERNS, active, batch, mlp, slots, spread

import sparse_ext as sx
from sparse_ext.methods import Time
from sparse_ext.nn import sparse_layers

INTERVAL, SHARE, TOTAL = 2, 0.3, 100
METHODS = {
    "set": sx.SET(drop_fraction=SHARE, update_interval=INTERVAL, t_end=1.0, schedule="constant"),
    "rigl": sx.RigL(drop_fraction=SHARE, update_interval=INTERVAL, t_end=1.0, schedule="constant"),
    "static": sx.Static(),
}
FREE = "csr"  # the layout that holds every mask: there the choice is exactly the method's


class Run:
    """A sparse run, and the reference that it shall agree with."""

    def __init__(self, layout, method, optimizer, attached, seed):
        self.how, self.attached, self.method = (layout, optimizer), attached, METHODS[method]
        self.dtype, self.at, self.calls, self.postponed = torch.float32, seed, 0, False
        self.average, self.frozen = None, False
        self.build(seed)
        self.reference, self.past = DenseRun(self.model, optimizer), None
        self.armed = set(self.layers)  # not frozen at the last call of step(): what the next one may grow by is observed

    def build(self, seed):
        layout, optimizer = self.how
        self.model = mlp(seed, layout=layout, dtype=self.dtype)
        self.model[0].weight.requires_grad_(not self.frozen)
        self.optimizer = STEPS_BY[optimizer](self.model.parameters())
        self.sparsifier = sx.Sparsifier(self.model, self.optimizer, self.method, total_steps=TOTAL, seed=seed)
        if self.attached:
            self.sparsifier.attach()
        self.trained = self.live  # until the optimizer's first step, or the first call of step(), shows what trains

    @property
    def layers(self):
        return sparse_layers(self.model)

    @property
    def live(self):
        return {name for name, layer in self.layers.items() if layer.weight.requires_grad}

    def backward(self, scale=1.0):
        """The same batch for both."""
        self.at += 1
        x, y = batch(self.at, dtype=self.dtype)
        for model in (self.model, self.reference.model):
            (nn.functional.cross_entropy(model(x), y) * scale).backward()

    def zero_grad(self):
        for optimizer in (self.optimizer, self.reference.optimizer):
            optimizer.zero_grad(set_to_none=True)

    def advance(self, gradients, micro_batches=1):
        """The call of step(), or the optimizer's that makes it: what it changes, and what it leaves."""
        if self.attached:  # the optimizer's step makes the call, which comes last in it
            before = None
            self.optimizer.step()
        else:
            before = self.held()
            self.sparsifier.step()
        self.calls += 1
        for name in self.changing(gradients, micro_batches):
            layer, old = self.layers[name], self.reference.masks[name]
            assert layer.nnz == int(old.sum())
            assert_chosen(layer, self.reference.model.get_submodule(name).weight, old, gradients.get(name), self.method)
            if before is not None:
                assert_followed(self.held()[name], before[name])
        self.armed = self.live
        self.reference.take({name: layer.mask() for name, layer in self.layers.items()})

    def changing(self, gradients, micro_batches):
        """The layers that have changed, after it was seen that these are the ones that had to."""
        due = self.method.is_update(Time(self.calls, TOTAL)) or self.postponed
        live, self.trained = self.live if self.trained is None else self.trained, None
        candidates = (live & self.armed if self.method.signals else live) if due else set()
        changed = {name for name, layer in self.layers.items() if not torch.equal(layer.mask(), self.reference.masks[name])}
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients.values())
        # More micro-batches than the step before: what was kept of the first one's gradient does not do.
        waits = bool(self.method.signals and candidates) and (not finite or (micro_batches > 1 and not changed))
        self.postponed = waits
        assert changed == (set() if waits else candidates)
        return changed

    def held(self):
        return {
            name: (active(layer), {key: spread(layer, value) for key, value in slots(layer, self.optimizer).items()})
            for name, layer in self.layers.items()
        }

    def check(self):
        """All that training changes, by position; and no slot that is unused holds anything."""
        pairs = [(self.model, self.reference.model)]
        if self.average is not None:
            pairs.append((self.average, self.reference.average))
        for model, dense in pairs:
            for name, value in dense_state(model).items():
                torch.testing.assert_close(value, dense.state_dict()[name], **RESUMED)
        for name, layer in self.layers.items():
            assert torch.equal(layer.mask(), self.reference.masks[name])
            expected = self.reference.optimizer.state.get(self.reference.model.get_submodule(name).weight, {})
            for key, value in slots(layer, self.optimizer).items():
                assert not value[layer.slots() < 0].any(), key
                if key in expected:
                    actual = spread(layer, value).view_as(expected[key])
                    torch.testing.assert_close(actual, expected[key], **RESUMED)
        x = batch(self.at, dtype=self.dtype)[0]
        torch.testing.assert_close(self.model(x), self.reference.model(x), **RESUMED)


def assert_followed(now, before):
    """What stays is the same bit for bit, NaN too; what is new is 0."""
    (mask, values), (old_mask, old_values) = now, before
    assert values.keys() == old_values.keys()
    for name, value in values.items():
        stays = mask & old_mask
        torch.testing.assert_close(value[stays], old_values[name][stays], rtol=0, atol=0, equal_nan=True, msg=name)
        assert not value[mask & ~old_mask].any(), name


def assert_chosen(layer, weight, before, gradient, method):
    """As many as the method says were dropped, the smallest; and grown: at random, or those of largest gradient.

    What is dropped may grow again. Both sides round apart, so nearly equal ones may change places.
    """
    if layer.layout != FREE:  # the others choose within groups or rows
        return
    count, now = int(SHARE * int(before.sum())), layer.mask()
    close = RESUMED["atol"]
    magnitudes = weight.detach().abs().masked_fill(~before, torch.inf)
    bound = magnitudes.flatten().kthvalue(count).values
    kept, gone = before & (magnitudes > bound + close), before & ~now
    assert bool(now[kept].all())
    assert 0 < int(gone.sum()) <= count
    if method.signals:
        score = gradient.abs()
        assert bool((score[now & ~before] >= score[~now].max() - close).all())


# ---- what users do ---------------------------------------------------------------------------------------------------------


def step(run, micro_batches=1):
    for _ in range(micro_batches):
        run.backward()
    frozen = stored(run.model[0]) if run.frozen else []
    gradients = run.reference.gradients()
    run.reference.optimizer.step()
    run.trained = None
    if not run.attached:
        run.optimizer.step()
    run.advance(gradients, micro_batches)
    run.zero_grad()
    assert not frozen or all(torch.equal(*pair) for pair in zip(frozen, stored(run.model[0]), strict=True))
    if run.average is not None:
        with torch.no_grad():
            for average, model in ((run.average, run.model), (run.reference.average, run.reference.model)):
                for mine, its in zip(average.parameters(), model.parameters(), strict=True):
                    mine.lerp_(its, 0.5)


def stored(layer):
    return [layer.weight.detach().clone(), *(buffer.clone() for buffer in layer.buffers())]


def accumulate(run):
    step(run, micro_batches=2)


def discard(run):
    """A backward pass whose gradient nobody uses."""
    run.backward()
    run.zero_grad()


def skip(run):
    """As a GradScaler skips a step: the gradient is not finite, and the optimizer is not called, but step() is."""
    run.backward(scale=float("inf"))
    if not run.attached:
        run.advance(run.reference.gradients())
    run.zero_grad()


def remember(run):
    """What `roll_back` goes back to."""
    run.past = copy.deepcopy((run.model.state_dict(), run.reference.model.state_dict(), run.reference.masks))


def roll_back(run):
    """The model alone; before the first time, nothing."""
    if run.past is not None:
        model, dense, masks = copy.deepcopy(run.past)
        run.model.load_state_dict(model)
        run.reference.model.load_state_dict(dense)
        run.reference.take(masks)


def resume(run):
    """In fresh objects, of another seed."""
    state = {"model": run.model, "optimizer": run.optimizer, "sparsifier": run.sparsifier}
    if run.average is not None:
        state["average"] = run.average
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in state.items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    run.build(seed=99)
    for part in (run.model, run.optimizer) if run.at % 2 else (run.optimizer, run.model):
        part.load_state_dict(saved["model" if part is run.model else "optimizer"])
    if not run.attached:
        run.sparsifier.load_state_dict(saved["sparsifier"])
    if run.average is not None:
        run.average = copy.deepcopy(run.model)
        run.average.load_state_dict(saved["average"])
        run.sparsifier.track(run.average)
    run.armed = run.live


def move(run):
    """To float64, or back; moments too, which PyTorch leaves to the user."""
    run.dtype = torch.float64 if run.dtype == torch.float32 else torch.float32
    for one in (run.model, run.average, run.reference.model, run.reference.average):
        if one is not None:
            one.to(run.dtype)
    for optimizer in (run.optimizer, run.reference.optimizer):
        for state in optimizer.state.values():
            state |= {key: value.to(run.dtype) for key, value in state.items() if key != "step" and value is not None}


def copied(run):
    """All together; nothing of the first ones is used."""
    first = (run.model, run.optimizer, run.sparsifier, run.average)
    run.model, run.optimizer, run.sparsifier, run.average = copy.deepcopy(first)
    with torch.no_grad():
        for one in first[0].parameters():
            one.fill_(torch.nan)


def freeze(run):
    """The first layer's weight, or it thaws."""
    run.frozen = not run.frozen
    for model in (run.model, run.reference.model):
        model[0].weight.requires_grad_(not run.frozen)


def track(run):
    """An average of the model as it is now, in place of an earlier one."""
    run.average, run.reference.average = copy.deepcopy(run.model), copy.deepcopy(run.reference.model)
    run.sparsifier.track(run.average)


DOES = [step, step, step, accumulate, discard, skip, remember, roll_back, resume, move, copied, freeze, track]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", PATTERNS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(
    does=st.lists(st.sampled_from(DOES), min_size=6, max_size=14),
    optimizer=st.sampled_from(sorted(STEPS_BY)),
    attached=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_run(method, layout, does, optimizer, attached, seed):
    run = Run(layout, method, optimizer, attached, seed)
    run.check()
    for do in (step, *does, step, step):
        do(run)
        run.check()
