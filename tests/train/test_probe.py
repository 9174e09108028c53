"""A trial of an optimizer: what it leaves alone, what it depends on, and that it is made once."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from training import OPTIMIZERS, Lion

from sparse_ext.train.optimizers import probe as module
from sparse_ext.train.optimizers.probe import probe


def optimizer_of(length=100, dtype=torch.float32, kind=torch.optim.AdamW, **options):
    weight, other = nn.Parameter(torch.ones(length, dtype=dtype)), nn.Parameter(torch.ones(4, 4, dtype=dtype))
    return weight, kind([{"params": [other]}, {"params": [weight], **options}], lr=0.01)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_KNOWN", type(module._KNOWN)())


class Noisy(Lion):
    """Takes random numbers."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)

    def step(self):
        torch.rand(3)
        super().step()


def test_a_trial_leaves_no_traces():
    weight, optimizer = optimizer_of(kind=Noisy)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    torch.manual_seed(3)
    python, before = random.getstate(), torch.random.get_rng_state()
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    assert probe(optimizer, weight).reason is None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert random.getstate() == python
    assert not calls
    assert not optimizer.state
    assert [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups] == groups
    assert weight.grad is None
    assert bool((weight == 1).all())


def test_hooks_on_all_optimizers_wait():
    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    try:
        weight, optimizer = optimizer_of()
        assert probe(optimizer, weight).reason is None
        assert not calls
        optimizer.step()
        assert calls == [1]
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_dtype_is_tried_out(name, dtype):
    weight = nn.Parameter(torch.ones(50, dtype=dtype))
    assert probe(OPTIMIZERS[name]([weight]), weight).reason is None


def test_float16_in_which_eps_is_0_is_refused():
    """A weight without a gradient becomes 0 / 0."""
    weight, optimizer = optimizer_of(dtype=torch.float16)
    assert "changes weights that are 0 and got no gradient" in probe(optimizer, weight).reason
    optimizer.param_groups[1]["eps"] = 1e-4
    assert probe(optimizer, weight).reason is None


@pytest.mark.parametrize("length", [1, 2, 24, 25, 5000, 100_000])
def test_every_length_is_tried_out(length):
    weight, optimizer = optimizer_of(length, kind=torch.optim.Adagrad, initial_accumulator_value=0.25)
    probed = probe(optimizer, weight)
    assert (probed.reason, list(probed.fresh.values())) == (None, [0.25])


class ByLength(Lion):
    """Keeps the state of long weights in blocks, as 8-bit optimizers do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)

    def step(self):
        super().step()
        for p, state in self.state.items():
            if p.numel() >= 4096 and p.numel() % 256 == 0:
                state["scales"] = torch.ones(p.numel() // 256)


class InARecord(ByLength):
    """Whether it does so stands in an object."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.args = SimpleNamespace(blocks=False)

    def step(self):
        super().step()
        for state in self.state.values() if not self.args.blocks else ():
            state.pop("scales", None)


def test_options_in_an_object_count():
    for blocks in (False, True, False):
        weight, optimizer = optimizer_of(4096, kind=InARecord)
        optimizer.args.blocks = blocks
        assert (probe(optimizer, weight).reason is not None) == blocks


@pytest.mark.parametrize(("length", "taken"), [(4095, True), (4096, False), (2**20, False), (2**20 + 1, True)])
def test_long_weights_are_tried_out_at_a_length_of_their_kind(length, taken):
    weight, optimizer = optimizer_of(length, kind=ByLength)
    assert (probe(optimizer, weight).reason is None) == taken


class Elsewhere(Lion):
    """Trains long weights in copies, as offloading optimizers do, by gradients that only a backward pass would bring there."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)

    def step(self):
        self.param_groups[0]["params"] = [p for p in self.param_groups[0]["params"] if p.numel() < 4096]
        super().step()


def test_a_trial_that_changes_nothing_shows_nothing():
    weight, optimizer = optimizer_of(4096, kind=Elsewhere)
    assert probe(optimizer, weight).reason == "its steps change no weight of a trial"
    weight, optimizer = optimizer_of(4095, kind=Elsewhere)
    assert probe(optimizer, weight).reason is None


@pytest.mark.parametrize("length", [100, 5000])
def test_an_optimizer_may_begin_late(length):
    """RAdam's first steps are too uncertain to be adaptive: some leave them out."""
    weight, optimizer = optimizer_of(length, kind=torch.optim.RAdam)
    assert probe(optimizer, weight).reason is None


def test_a_rate_of_0_is_that_of_a_schedule():
    weight, optimizer = optimizer_of(kind=torch.optim.Rprop)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    probed = probe(optimizer, weight)
    assert probed.reason is None
    assert list(probed.fresh.values()) == pytest.approx([0.01])


def test_a_class_with_its_options_is_tried_out_once(monkeypatch):
    tried, whole = [], module._probe
    monkeypatch.setattr(module, "_probe", lambda make, length: tried.append(length) or whole(make, length))
    for length, options in [(100, {}), (100, {}), (100, {"weight_decay": 0.1}), (101, {})]:
        weight, optimizer = optimizer_of(length, **options)
        probe(optimizer, weight)
    assert tried == [24, 100, 24, 100, 101]


def test_the_default_device_and_dtype_do_not_matter():
    weight, optimizer = optimizer_of()
    with torch.device("meta"):
        torch.set_default_dtype(torch.float64)
        try:
            assert probe(optimizer, weight).reason is None
        finally:
            torch.set_default_dtype(torch.float32)


def test_weights_on_the_meta_device_are_tried_out_on_the_cpu():
    weight = nn.Parameter(torch.ones(100, device="meta"))
    assert probe(torch.optim.AdamW([weight]), weight).reason is None
