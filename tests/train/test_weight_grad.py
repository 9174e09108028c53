"""Growth sees exactly what `weight.grad` sees: every scenario once more on a masked dense model that looks at `weight.grad`.

The scenarios are loops of users: adversarial networks, adversarial inputs, saliency maps, gradient penalties, discarded
micro-batches, activation checkpointing, in-place activations. float64, so that sums in another order decide no position.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

STEPS, TOTAL, FRACTION = 8, 20, 0.4
WIDTHS = (10, 16, 12, 4)


def network(activation=nn.Tanh, convolves=False):
    a, b, c, d = WIDTHS
    if not convolves:
        return nn.Sequential(nn.Linear(a, b), activation(), nn.Linear(b, c), activation(), nn.Linear(c, d)).double()
    first = nn.Sequential(nn.Unflatten(1, (2, 5, 1)), nn.Conv2d(2, 6, (3, 2), padding=1))
    last = nn.Sequential(activation(), nn.Flatten())
    return nn.Sequential(first, activation(), nn.Conv2d(6, 4, 2, groups=2), last, nn.Linear(16, d)).double()


def batch(step, shape=(6,)):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(*shape, WIDTHS[0], dtype=torch.float64, generator=generator)
    return x, torch.randint(WIDTHS[-1], (x.shape[:-1].numel(),), generator=generator)


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x).flatten(0, -2), y)


class Sparse:
    """Ours."""

    def __init__(self, model, interval):
        self.model = sx.sparsify_(copy.deepcopy(model), 0.6, distribution="uniform", exclude="4")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        method = sx.RigL(drop_fraction=FRACTION, update_interval=interval, t_end=1.0)
        self.sparsifier = sx.Sparsifier(self.model, self.optimizer, method, total_steps=TOTAL)

    def step(self, between=None):
        """`between`: what happens between the optimizer's step and the Sparsifier's."""
        self.optimizer.step()
        if between is not None:
            between()
        self.sparsifier.step()

    def masks(self):
        return {name: layer.mask() for name, layer in sparse_layers(self.model).items()}


class Masked:
    """The definition: a dense model, its weights and gradients under a mask, growth by the whole `weight.grad`."""

    def __init__(self, sparse, interval):
        self.model = sx.densify_(copy.deepcopy(sparse.model))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.kept, self.interval, self.steps = sparse.masks(), interval, 0

    @torch.no_grad()
    def step(self, between=None):
        self.steps += 1
        seen = {}
        for name in self.kept:
            weight = self.model.get_submodule(name).weight
            seen[name] = weight.grad.clone()
            weight.grad *= self.kept[name]
        self.optimizer.step()
        if between is not None:
            with torch.enable_grad():
                between()
        if self.steps % self.interval == 0 and self.steps < TOTAL:
            for name, gradient in seen.items():
                self.update(name, gradient)

    def update(self, name, gradient):
        weight, mask = self.model.get_submodule(name).weight, self.kept[name].flatten()
        share = FRACTION / 2 * (1 + math.cos(math.pi * self.steps / TOTAL))
        count = math.floor(share * int(mask.sum()))

        def ranked(score, among):  # largest first, ties to the lower index
            score = score.flatten().abs().tolist()
            return sorted(among.nonzero().flatten().tolist(), key=lambda at: (-score[at], at))

        keep = torch.zeros_like(mask)
        keep[ranked(weight.detach(), mask)[: int(mask.sum()) - count]] = True
        new = keep.clone()
        new[ranked(gradient, ~keep)[:count]] = True
        stays = (new & mask).view_as(weight)
        weight.data *= stays
        self.optimizer.state[weight]["momentum_buffer"] *= stays
        self.kept[name] = new.view_as(weight)

    def masks(self):
        return self.kept


# ---- scenarios: one iteration, written as a user writes it ------------------------------------------------------------------


def plain(arm, step):
    loss_of(arm.model, *batch(step)).backward()
    arm.step()
    arm.optimizer.zero_grad()


def generator_trains_through_it(arm, step, between):
    """A discriminator: the generator's loss passes through it, too, around `sparsifier.step()`, and is discarded later."""
    torch.manual_seed(step)
    generator = nn.Linear(3, WIDTHS[0]).double()
    z, (x, y) = torch.randn(6, 3).double(), batch(step)

    def generator_step():
        loss_of(arm.model, generator(z), y.flip(0)).mul(30.0).backward()

    arm.optimizer.zero_grad()
    (loss_of(arm.model, x, y) + loss_of(arm.model, generator(z).detach(), y)).backward()
    arm.step(generator_step if between else None)
    if not between:
        generator_step()


def adversarial_inputs(arm, step):
    x, y = batch(step)
    for _ in range(2):
        x.requires_grad_()
        (direction,) = torch.autograd.grad(loss_of(arm.model, x, y), x)
        x = (x + 0.5 * direction.sign()).detach()
    loss_of(arm.model, x, y).backward()
    arm.step()
    arm.optimizer.zero_grad()


def saliency_after_the_step(arm, step):
    """Looks at input gradients of all classes, also between backward and step."""
    x, y = batch(step)
    loss_of(arm.model, x, y).backward()
    x.requires_grad_()
    for label in range(WIDTHS[-1]):
        torch.autograd.grad(arm.model(x)[:, label].sum(), x)
    arm.model(x).sum().backward(inputs=[x])
    arm.step()
    arm.optimizer.zero_grad()


def gradient_penalty(arm, step):
    """On what the dense head makes of the features: the penalty's own backward passes through the sparse layers once."""
    x, y = batch(step)
    features = arm.model[:4](x)
    out = nn.functional.softplus(arm.model[4](features))
    (slope,) = torch.autograd.grad(out.sum(), features, create_graph=True)
    (nn.functional.cross_entropy(out, y) + 0.1 * slope.square().sum(1).sub(1).square().mean()).backward()
    arm.step()
    arm.optimizer.zero_grad()


def discarded_micro_batch(arm, step, set_to_none):
    for part, scale in enumerate((50.0, 1.0, 1.0)):
        loss_of(arm.model, *batch(10 * step + part)).mul(scale).backward()
        if part == 0:  # a bad batch
            arm.optimizer.zero_grad(set_to_none=set_to_none)
    nn.utils.clip_grad_norm_(arm.model[4].parameters(), 1.0)
    arm.step()
    arm.optimizer.zero_grad(set_to_none=set_to_none)


def two_losses_of_one_graph(arm, step):
    x, y = batch(step)
    out = arm.model(x)
    nn.functional.cross_entropy(out, y).backward(retain_graph=True)
    out.square().mean().backward()
    arm.step()
    arm.optimizer.zero_grad()


def evaluated_in_between(arm, step):
    x, y = batch(step)
    with torch.no_grad():
        arm.model(x)
    loss = loss_of(arm.model, x, y)
    loss_of(arm.model, x.flip(0), y)  # a graph that nobody walks
    loss.backward()
    arm.step()
    arm.optimizer.zero_grad()


def checkpointed(arm, step, use_reentrant):
    """Ours recomputes its activations, the definition does not; a second part comes without recomputation."""
    x, y = batch(step)
    x.requires_grad_()
    first = checkpoint(arm.model, x, use_reentrant=use_reentrant) if isinstance(arm, Sparse) else arm.model(x)
    nn.functional.cross_entropy(first + arm.model(x.flip(0)), y).backward()
    arm.step()
    arm.optimizer.zero_grad()


SCENARIOS = {
    "plain": plain,
    "a generator's pass after sparsifier.step": lambda arm, step: generator_trains_through_it(arm, step, between=False),
    "a generator's pass before sparsifier.step": lambda arm, step: generator_trains_through_it(arm, step, between=True),
    "adversarial inputs": adversarial_inputs,
    "saliency maps": saliency_after_the_step,
    "a gradient penalty": gradient_penalty,
    "a discarded micro-batch, to None": lambda arm, step: discarded_micro_batch(arm, step, set_to_none=True),
    "a discarded micro-batch, to zero": lambda arm, step: discarded_micro_batch(arm, step, set_to_none=False),
    "two losses of one graph": two_losses_of_one_graph,
    "evaluation in between": evaluated_in_between,
    "checkpointing, reentrant": lambda arm, step: checkpointed(arm, step, use_reentrant=True),
    "checkpointing": lambda arm, step: checkpointed(arm, step, use_reentrant=False),
}


def assert_grow_alike(model, interval, scenario):
    sparse = Sparse(model, interval)
    masked = Masked(sparse, interval)
    patterns = set()
    for step in range(1, STEPS + 1):
        scenario(sparse, step)
        scenario(masked, step)
        for name, mask in sparse.masks().items():
            assert torch.equal(mask, masked.masks()[name]), f"step {step}, layer {name}"
            weight = masked.model.get_submodule(name).weight.detach()
            torch.testing.assert_close(sparse.model.get_submodule(name).dense_weight(), weight)
        patterns.add(tuple(torch.cat([mask.flatten() for mask in sparse.masks().values()]).tolist()))
    assert len(patterns) >= STEPS // interval


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("convolves", [False, True], ids=["linear", "conv2d"])
def test_growth_is_that_of_a_masked_dense_model(convolves, scenario, interval):
    torch.manual_seed(0)
    assert_grow_alike(network(convolves=convolves), interval, SCENARIOS[scenario])


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 1, 3)], ids=["2-D", "3-D", "4-D"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.LeakyReLU])
def test_activations_in_place(activation, shape):
    def iteration(arm, step):
        loss_of(arm.model, *batch(step, shape)).backward()
        arm.step()
        arm.optimizer.zero_grad()

    for convolves in (False, True)[: 2 if len(shape) == 1 else 1]:
        torch.manual_seed(0)
        assert_grow_alike(network(lambda: activation(inplace=True), convolves), 1, iteration)


@pytest.mark.parametrize("convolves", [False, True])
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("backward_calls", [1, 2])
def test_a_penalty_through_the_sparse_layers(backward_calls, interval, convolves):
    """Growth sees what the second derivative adds to the gradient, in the pass of the loss or in one of its own."""

    def iteration(arm, step):
        x, y = batch(step)
        x.requires_grad_()
        loss = loss_of(arm.model, x, y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        penalty = 100 * slope.square().sum()
        if backward_calls == 1:
            (loss + penalty).backward()
        else:
            loss.backward(retain_graph=True)
            penalty.backward()
        arm.step()
        arm.optimizer.zero_grad()

    torch.manual_seed(0)
    assert_grow_alike(network(convolves=convolves), interval, iteration)
