"""What is frozen keeps value and state bit for bit under every optimizer; what trains does what it would do in any case."""

import copy
import gc
import pickle

import pytest
import torch
from frozen_parts import BY, CLASSES, EVERY, IN, LAYOUTS, check_frozen, frozen, network, snapshot, trainer, values
from torch import nn
from training import OPTIMIZERS, assert_same, everything, run

import sparse_ext as sx
from sparse_ext.nn.plain import DenseLayer


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("kind", EVERY)
def test_frozen_parts_keep_value_and_state(kind, by):
    model = network()
    optimizer, sparsifier = trainer(model, kind, granularity=by)
    run(model, optimizer, sparsifier, range(1, 5))
    assert sparsifier.report().updates == 1
    before = snapshot(optimizer, sparsifier)
    run(model, optimizer, sparsifier, range(5, 8))
    check_frozen(optimizer, sparsifier, before)
    sparsifier._layers[0].part.trained.logical_not_()  # of another set the state is whole, too
    sparsifier._layers[0].layer.train_all_()
    sparsifier._arm()
    before = snapshot(optimizer, sparsifier)
    run(model, optimizer, sparsifier, range(8, 9))  # a scoring step, after which another part is frozen
    assert sparsifier.report().updates == 2


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, by, conv):
    model = network(layout, conv=conv and layout != "2:4")
    optimizer, sparsifier = trainer(model, "adamw", granularity=by)
    assert len(sparsifier._layers) == 3  # with the dense head
    run(model, optimizer, sparsifier, range(1, 5))
    before = snapshot(optimizer, sparsifier)
    run(model, optimizer, sparsifier, range(5, 8))
    check_frozen(optimizer, sparsifier, before)


class Reference:
    """Plain PyTorch: gradients masked, frozen parts put back by copies."""

    def __init__(self, model, optimizer, sparsifier):
        self.model, self.optimizer, self.sparsifier = model, optimizer, sparsifier

    def step(self):
        parts = {m.name: (~frozen(m), m.part.by == "layer") for m in self.sparsifier._layers if m.part.trained is not None}
        kept = []
        for name, (trains, whole) in parts.items():
            layer = self.model.get_submodule(name)
            pairs = [(layer.weight, trains)]
            if whole:
                pairs.append((layer.bias, trains.flatten()[0].expand(layer.bias.shape)))
            for parameter, mask in pairs:
                parameter.grad *= mask
                kept.append((parameter, mask, {k: v.clone() for k, v in values(self.optimizer, parameter).items()}))
        self.optimizer.step()
        with torch.no_grad():
            for parameter, mask, before in kept:
                for key, value in values(self.optimizer, parameter).items():
                    value.copy_(torch.where(mask, value, before.get(key, torch.zeros_like(value))))


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("kind", EVERY)
def test_trained_parts_equal_a_reference(kind, by):
    """float64, gradients clipped, two micro-batches."""
    model = network(dtype=torch.float64)
    other = copy.deepcopy(model)
    optimizer, sparsifier = trainer(model, kind, granularity=by)
    reference = Reference(other, EVERY[kind](other.parameters()), sparsifier)
    for _ in range(11):
        for _ in range(2):
            x, y = torch.randn(8, IN, dtype=torch.float64), torch.randint(CLASSES, (8,))
            for one in (model, other):
                nn.functional.cross_entropy(one(x), y).backward()
        reference.step()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        reference.optimizer.zero_grad()
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two)
            expected = values(reference.optimizer, two)
            for key, value in values(optimizer, one).items():
                torch.testing.assert_close(value, expected[key])


# ---- the optimizer's side -------------------------------------------------------------------------------------------


def test_hooks_and_state_see_whole_weights():
    model = network()
    optimizer, sparsifier = trainer(model, "adamw", granularity="row")
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append([p.shape for p in model.parameters()]))
    run(model, optimizer, sparsifier, range(1, 8))
    assert all(shapes == [p.shape for p in model.parameters()] for shapes in seen)
    assert all(value.shape == p.shape for p in model.parameters() for key, value in optimizer.state[p].items() if key != "step")


@pytest.mark.parametrize("by", ["element", "layer"])
def test_a_step_that_fails_leaves_whole_weights(by):
    model = network()
    optimizer, sparsifier = trainer(model, "sgd", granularity=by)
    run(model, optimizer, sparsifier, range(1, 7))
    before = everything(model, optimizer)

    def fails():
        loss = nn.functional.cross_entropy(model(torch.randn(4, IN)), torch.randint(CLASSES, (4,)))
        loss.backward()
        return loss

    optimizer.param_groups[0]["momentum"] = "no number"
    with pytest.raises(TypeError):
        optimizer.step(fails)
    optimizer.param_groups[0]["momentum"] = 0.9
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
    for key, value in everything(model, optimizer).items():
        assert value.shape == before[key].shape
    optimizer.zero_grad()
    run(model, optimizer, sparsifier, range(7, 10))


def test_closures_and_schedulers():
    model, other = network(), network()
    (optimizer, sparsifier), (own, theirs) = trainer(model, "adamw"), trainer(other, "adamw")
    schedulers = [torch.optim.lr_scheduler.StepLR(one, 2) for one in (optimizer, own)]
    for _ in range(9):
        x, y = torch.randn(8, IN), torch.randint(CLASSES, (8,))

        def closure(model=model, x=x, y=y, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        nn.functional.cross_entropy(other(x), y).backward()
        own.step()
        assert sparsifier.step() == theirs.step()
        own.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    assert_same(dict(model.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("first", [False, True])
def test_a_scheduler_made_before_or_after(first):
    model = network()
    optimizer = EVERY["sgd"](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2) if first else None
    optimizer, sparsifier = trainer(model, optimizer)
    scheduler = scheduler or torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for step in range(1, 8):
        run(model, optimizer, sparsifier, range(step, step + 1))
        scheduler.step()
    assert sparsifier.report().updates == 1
    del sparsifier
    gc.collect()
    before = model[0].weight.detach().clone()
    run(model, optimizer, None, range(8, 9))
    assert (model[0].weight != before).float().mean() > 0.9  # nothing is frozen any more
    scheduler.step()


def test_several_optimizers():
    model = network()
    optimizers = [torch.optim.SGD(model[:2].parameters(), 0.1, 0.9), torch.optim.AdamW(model[2:].parameters())]
    sparsifier = sx.Sparsifier(model, optimizers, sx.SAT(update_interval=2), total_steps=20)
    for step in range(1, 6):
        if step == 4:
            before = {m.name: m.layer.weight.detach().clone() for m in sparsifier._layers}
        nn.functional.cross_entropy(model(torch.randn(8, IN)), torch.randint(CLASSES, (8,))).backward()
        for optimizer in optimizers:
            optimizer.step()
        if step < 4:
            sparsifier.step()
    for managed in sparsifier._layers:
        still = frozen(managed)
        assert torch.equal(managed.layer.weight[still], before[managed.name][still])
        assert not torch.equal(managed.layer.weight, before[managed.name])


def test_what_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="replace_step=False, got True"):
        sx.Sparsifier(model, optimizer, sx.SAT(), total_steps=9, replace_step=True)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ValueError, match=r"optimizer that holds the weight|trainable sparse layers"):
        sx.Sparsifier(model, torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1), sx.SAT(), total_steps=9)
    with pytest.raises(ValueError, match="matrices otherwise than flat weights"):
        sx.Sparsifier(model, torch.optim.Adafactor(model.parameters()), sx.SAT(), total_steps=9)
    with pytest.raises(ValueError, match="two methods, exactly one of which freezes"):
        sx.Together(sx.RigL(), sx.SET())

    class Bare:
        param_groups = optimizer.param_groups
        state = optimizer.state

        def step(self):
            optimizer.step()

    with pytest.raises(ValueError, match="optimizer with hooks"):
        sx.Sparsifier(model, Bare(), sx.SAT(), total_steps=9, trust_optimizer=True)
    assert type(model[0]) is nn.Linear


# ---- the layers' side -----------------------------------------------------------------------------------------------


def test_dense_layers_stay_what_they_are():
    model = network()
    keys, x = list(model.state_dict()), torch.randn(4, IN)
    optimizer, sparsifier = trainer(model, granularity="row")
    run(model, optimizer, sparsifier, range(1, 7))
    assert list(model.state_dict()) == keys
    assert isinstance(model[0], nn.Linear)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        twin(x).sum().backward()  # a copy trains as a whole
        assert twin[0].weight.grad.ne(0).any(1).all()
    del sparsifier
    gc.collect()
    assert type(model[0]) is nn.Linear
    model(x).sum().backward()


def test_a_later_sparsifier_keeps_the_layers():
    model = network()
    optimizer, sparsifier = trainer(model)
    run(model, optimizer, sparsifier, range(1, 7))
    later = sx.Sparsifier(model, optimizer, sx.SAT(update_interval=2), total_steps=9)
    del sparsifier
    gc.collect()
    assert isinstance(model[0], DenseLayer)
    with pytest.warns(UserWarning, match="no state of this Sparsifier"):
        run(model, optimizer, later, range(1, 6))
    assert later.report().layers[0].trained == pytest.approx(0.3, abs=0.01)


def test_layers_that_train_as_a_whole():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = nn.Sequential(nn.Linear(IN, 20), Own(20, 20), nn.Linear(20, CLASSES))
    with pytest.warns(UserWarning, match="'1' trains as a whole: Own is a subclass"):
        _, sparsifier = trainer(model)
    assert [row.name for row in sparsifier.report().layers] == ["0", "2"]


def test_methods_by_name():
    model = network("csr")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    methods = {"0": sx.Together(sx.RigL(update_interval=2), sx.SAT(update_interval=3, granularity="row")), "*": sx.SET()}
    sparsifier = sx.Sparsifier(model, optimizer, methods, total_steps=50)
    assert [row.name for row in sparsifier.report().layers] == ["0", "2"]  # SET trains no dense head
    run(model, optimizer, sparsifier, range(1, 8))
    assert [row.trained < 1 for row in sparsifier.report().layers] == [True, False]
    assert sparsifier.report().updates == 4


def test_a_gradient_that_is_not_finite_postpones():
    model = network()
    optimizer, sparsifier = trainer(model)
    run(model, optimizer, sparsifier, range(1, 4))
    model[0].weight.grad = torch.full_like(model[0].weight, torch.inf)
    sparsifier.step()  # step 4: the optimizer took no step
    optimizer.zero_grad()
    assert sparsifier.report().updates == 0
    run(model, optimizer, sparsifier, range(5, 7))
    assert sparsifier.report().updates == 1
