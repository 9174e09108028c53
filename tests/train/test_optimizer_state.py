"""Where state lies, wherever that is: in wrappers, nested, on the optimizer; and what is refused, before anything changes."""

import copy
import pickle
import re

import pytest
import torch
import torch.distributed as dist
from followed import assert_follows, refusal
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from training import Lion, assert_same, everything, masks, mlp, run

import sparse_ext as sx
from sparse_ext.train.optimizers.wrappers import leaves


class SAM(torch.optim.Optimizer):
    """The common wrapper (Foret et al. 2020): shares its groups with an inner optimizer, made of a class."""

    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad, alpha=group["rho"])
                p.data = self.state[p]["old_p"]  # two names for one memory
        self.base_optimizer.step()


class Lookahead:
    """No torch.optim.Optimizer, and made of one (Zhang et al. 2019)."""

    def __init__(self, inner, pace=3):
        self.inner, self.pace, self.count = inner, pace, 0
        self.slow = {p: p.detach().clone() for group in inner.param_groups for p in group["params"]}

    @property
    def param_groups(self):
        return self.inner.param_groups

    def step(self):
        self.inner.step()
        self.count += 1
        if self.count % self.pace == 0:
            for p, slow in self.slow.items():
                p.data.copy_(slow.lerp_(p.detach(), 0.5))


class Nested(Lion):
    """Its moments in a list in a dict; and a count of shape (1,)."""

    def step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("all", {"moments": [torch.zeros_like(p)]})
            self.state[p].setdefault("count", torch.zeros(1)).add_(1)
            moment = self.state[p]["all"]["moments"][0].lerp_(p.grad, 0.1)
            p.data.sub_(moment, alpha=0.1)


class ByParameter(Lion):
    """Its moments in an attribute, by parameter; from the start, at 0.5."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.moments = {p: torch.full_like(p, 0.5) for p in self.param_groups[0]["params"]}

    def step(self):
        for p in self.param_groups[0]["params"]:
            moment = self.moments[p].addcmul_(p.grad, p.grad)
            p.data.addcdiv_(p.grad, moment, value=-0.1)


class InALine(ByParameter):
    """Its moments in a list, in the order of the parameters."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        self.moments = [torch.zeros_like(p) for p in self.moments]

    def step(self):
        for p, moment in zip(self.param_groups[0]["params"], self.moments, strict=True):
            moment.lerp_(p.grad, 0.1)
            p.data.sub_(moment, alpha=0.1)


class Hidden(Lion):
    """Its moments where nobody finds them."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)
        moments = {}

        def moment_of(p):
            return moments.setdefault(p, torch.zeros_like(p))

        self.moment_of = moment_of

    def step(self):
        for p in self.param_groups[0]["params"]:
            p.data.sub_(self.moment_of(p).lerp_(p.grad, 0.1), alpha=0.1)


class Nameless(Lion):
    """Its moments in an attribute, by a number of its own."""

    def step(self):
        vars(self).setdefault("moments", {})
        for number, p in enumerate(self.param_groups[0]["params"]):
            moment = self.moments.setdefault(f"moment {number}", torch.zeros_like(p)).lerp_(p.grad, 0.1)
            p.data.sub_(moment, alpha=0.1)


class Neighbours(Lion):
    """Elements that lie side by side count for each other."""

    def step(self):
        for p in self.param_groups[0]["params"]:
            p.data.view(-1).sub_(p.grad.view(-1) * p.grad.view(-1).roll(1), alpha=0.01)


class Restless(Lion):
    """Moves what got no gradient."""

    def step(self):
        for p in self.param_groups[0]["params"]:
            p.data.sub_(p.grad + 0.1, alpha=0.1)


class Needy(Lion):
    """Cannot be made again from what it holds."""

    def __init__(self, params, model):
        super().__init__(params)


FOLLOWS = {
    "SAM": lambda p: SAM(p, torch.optim.AdamW, rho=0.1, lr=0.01),
    "Lookahead": lambda p: Lookahead(torch.optim.AdamW(p, lr=0.01)),
    "Lookahead(SAM)": lambda p: Lookahead(SAM(p, torch.optim.RMSprop, lr=0.01), pace=2),
    "nested": Nested,
    "by parameter": ByParameter,
    "in a line": InALine,
}


@pytest.mark.parametrize("name", FOLLOWS)
def test_state_follows_wherever_it_lies(name):
    assert_follows(FOLLOWS[name])


REFUSED = {
    Hidden: "after an update of the pattern its weight is not that of a weight that had it from the start",
    Nameless: "expected tensors of shape (24,), a weight's, under that weight in `state`, got 'moments.moment 0'",
    Neighbours: "after an update of the pattern its weight is not",
    Restless: "it changes weights that are 0 and got no gradient, such as unused slots",
    torch.optim.Adafactor: "it treats matrices otherwise than flat weights, such as those of sparse layers",
    torch.optim.LBFGS: "expected optimizer state of the weight's shape (24,), got 'd' of shape (27,)",
    torch.optim.SparseAdam: "it could not be tried out on a small weight (RuntimeError: SparseAdam does not support dense",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_follow_is_refused(kind):
    model = mlp()
    before = everything(model, kind(model.parameters()))
    reason = refusal(model, kind(model.parameters()))
    assert f"can follow a changing pattern, got {kind.__name__}: {REFUSED[kind]}" in reason
    assert reason.endswith("pass trust_optimizer=True if you know that it trains each weight by itself")
    assert_same(everything(model, kind(model.parameters())), before)
    sx.Sparsifier(model, kind(model.parameters()), sx.Static(), total_steps=10)  # nothing has to follow


def test_an_optimizer_may_be_trusted():
    model = mlp()
    optimizer = Needy(model.parameters(), model)
    assert "could not be tried out on a small weight (TypeError: " in refusal(model, optimizer)
    sparsifier = sx.Sparsifier(model, optimizer, sx.SET(update_interval=2, t_end=1.0), total_steps=10, trust_optimizer=True)
    optimizer.note = {"rows": torch.zeros(5), "like a weight": torch.ones(model[0].weight.shape)}
    run(model, optimizer, sparsifier, range(1, 2))
    optimizer.state[model[0].weight]["rows"] = torch.ones(5)
    assert run(model, optimizer, sparsifier, range(2, 5)) == 2
    assert all(optimizer.state[layer.weight]["exp_avg"].any() for layer in (model[0], model[2]))
    assert optimizer.note["like a weight"].all()
    assert optimizer.state[model[0].weight]["rows"].all()


def test_a_sharded_optimizer_follows(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert_follows(lambda p: ZeroRedundancyOptimizer(p, torch.optim.AdamW, lr=0.01))
        model = mlp()
        assert "treats matrices" in refusal(model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adafactor, lr=0.01))
    finally:
        dist.destroy_process_group()


def parts_of(model):
    return [*model[0].parameters()], [*model[2].parameters(), *model[4].parameters()]


def test_several_optimizers_share_a_model():
    """Each layer is trained as by the one optimizer that has the options of both."""
    outcomes = []
    for several in (False, True):
        model = mlp()
        first, second = parts_of(model)
        groups = [{"params": first, "lr": 0.1, "momentum": 0.9}, {"params": second, "lr": 0.01, "momentum": 0.5}]
        optimizers = [torch.optim.SGD([group]) for group in groups] if several else [torch.optim.SGD(groups)]
        sparsifier = sx.Sparsifier(model, optimizers, sx.RigL(update_interval=2, t_end=1.0), total_steps=20)
        for step in range(1, 9):
            x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
            assert sparsifier.step() == (step % 2 == 0)
            model.zero_grad()
        outcomes.append(model.state_dict())
    assert_same(outcomes[1], outcomes[0])


def test_a_weight_belongs_to_exactly_one_optimizer():
    model = mlp()
    first, second = (torch.optim.SGD(part, lr=0.1) for part in parts_of(model))
    third = torch.optim.AdamW(model[0].parameters())
    assert "holds the weight of every sparse layer, got SGD without 0;" in refusal(model, [second])
    assert "in exactly one optimizer, got several for 0;" in refusal(model, [first, second, third])
    assert refusal(model, (first, second)) is None


def test_masked_decay_is_added_once_by_each_optimizer():
    model = mlp(layout="2:4", method="sr-ste")
    optimizers = [torch.optim.SGD(part, lr=0.1) for part in parts_of(model)]
    sparsifier = sx.Sparsifier(model, optimizers, sx.SRSTE(decay=0.5), total_steps=10)
    before = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    for layer in (model[0], model[2]):
        layer.weight.grad = torch.zeros_like(layer.weight)
    for optimizer in optimizers:
        optimizer.step()
    for layer, values in zip((model[0], model[2]), before, strict=True):
        left_out = ~layer.mask().flatten()
        assert torch.equal(layer.weight.grad, torch.where(left_out, 0.5 * values, 0.0))
    assert sparsifier.step() in (True, False)


def test_a_copy_and_a_pickle_go_on_with_fresh_state():
    model = mlp()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.05)
    sparsifier = sx.Sparsifier(model, optimizer, sx.SET(update_interval=1, t_end=1.0), total_steps=100)
    run(model, optimizer, sparsifier, range(1, 3))
    trio = (model, optimizer, sparsifier)
    for copied in (copy.deepcopy(trio), pickle.loads(pickle.dumps(trio))):
        before, layer = masks(copied[0])["0"], copied[0][0]
        run(*copied, range(3, 4))
        grown = (layer.mask() & ~before).flatten()[layer.slots()[: layer.nnz]]
        assert grown.any()
        sizes = copied[1].state[layer.weight]["step_size"][: layer.nnz]
        torch.testing.assert_close(sizes[grown], torch.full_like(sizes[grown], 0.05))


def test_the_innermost_optimizers_are_found():
    model = mlp()
    first, second = (torch.optim.SGD(part, lr=0.1) for part in parts_of(model))
    chain = Lion(model.parameters())
    chain.optimizers = [first, second]
    assert leaves(first) == [first]
    assert leaves(Lookahead(first)) == [first]
    assert leaves(chain) == [first, second]
    first.wrapper = chain  # which knows where it is
    assert leaves(chain) == [first, second]
    assert refusal(model, [second, chain]) is not None
    stranger = Lion([nn.Parameter(torch.ones(3))])
    second.other = stranger  # trains something else
    assert leaves(second) == [second]


def test_state_that_appears_later_is_refused_before_anything_changes():
    model = mlp()
    optimizer = Lion(model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, sx.SET(update_interval=3, t_end=1.0), total_steps=100)
    run(model, optimizer, sparsifier, range(1, 3))
    optimizer.state[model[2].weight]["row_mean"] = torch.zeros(3)
    before = everything(model, optimizer)
    sentence = (
        f"Lion: expected optimizer state of the weight's shape {tuple(model[2].weight.shape)}, got 'row_mean' of shape (3,)"
    )
    for _ in range(2):  # the step is made up for, so it is not passed over in silence
        with pytest.raises(ValueError, match=re.escape(sentence)):
            sparsifier.step()
        assert_same(everything(model, optimizer), before)
    del optimizer.state[model[2].weight]["row_mean"]
    assert sparsifier.step()
