"""Training 2:4 equals a dense model, step by step: every method once more in plain PyTorch, sharing no code with ours.

Reference: reference/methods.md 2.8, float64, dense weights; straight-through gradients by autograd.
"""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.methods import Switch, Time
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import reference

STEPS, WIDTHS, TOKENS = 24, (12, 18, 21), 9  # of which one is no multiple of four, and batches neither

METHODS = {
    "sr-ste": sx.SRSTE(decay=0.03),
    "sr-ste, mvue": sx.SRSTE(decay=0.03, mvue=True),
    "fst": sx.FST(decay=0.03, refresh_interval=5, dense_tail=0.25),
    "fst, no mvue": sx.FST(decay=0.03, refresh_interval=4, dense_tail=0.0, mvue=False),
    "s-ste": sx.SSTE(),
    "s-ste, no mvue": sx.SSTE(mvue=False),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=2e-2),
}


def dense_mlp():
    torch.manual_seed(0)
    a, b, c = WIDTHS
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c)).double()


def data(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(TOKENS, WIDTHS[0], dtype=torch.float64, generator=generator)
    return x, torch.randint(WIDTHS[-1], (TOKENS,), generator=generator)


def padded(weight):
    rows, cols = weight.shape
    return nn.functional.pad(weight, (0, -cols % 4, 0, -rows % 4))


def two_of_four(weight):
    """The mask of the two largest magnitudes of each four; of equal ones the first."""
    four = padded(weight).abs().unflatten(1, (-1, 4))
    order = torch.argsort(four, dim=2, descending=True, stable=True)[:, :, :2]
    mask = torch.zeros(four.shape, dtype=torch.bool).scatter(2, order, True)
    return mask.flatten(1)[: weight.shape[0], : weight.shape[1]]


def transposable(weight):
    """The best of all tiles with two ones in each row and column; of equal ones the first."""
    pairs = [[float(i in pair) for i in range(4)] for pair in itertools.combinations(range(4), 2)]
    tiles = torch.tensor(list(itertools.product(pairs, repeat=4)), dtype=torch.float64)
    tiles = tiles[(tiles.sum(1) == 2).all(1)]
    assert len(tiles) == 90
    full = padded(weight).abs()
    blocks = full.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).transpose(1, 2)  # [row tiles, column tiles, 4, 4]
    best = torch.einsum("abij,tij->abt", blocks, tiles).argmax(2)
    mask = tiles[best].transpose(1, 2).flatten(2).flatten(0, 1).bool()
    return mask[: weight.shape[0], : weight.shape[1]]


def soft(weight):
    """Each four moved towards 0 by its third largest magnitude."""
    four = padded(weight).unflatten(1, (-1, 4))
    threshold = four.abs().sort(dim=2).values[:, :, 1:2]
    moved = four.sign() * (four.abs() - threshold).clamp(min=0)
    return moved.flatten(1)[: weight.shape[0], : weight.shape[1]]


class Sampled(torch.autograd.Function):
    """x W^T, whose weight gradient takes a 2:4 sample of dy^T along tokens."""

    @staticmethod
    def forward(ctx, x, weight, rng):
        ctx.save_for_backward(x, weight)
        ctx.rng = rng
        return x @ weight.T

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        sampled = reference.nm24_unpack(*reference.nm24_mvue(dy, ctx.rng), dy.shape[0])
        return dy @ weight, sampled @ x, None


class DenseTraining:
    """The definition, on dense tensors."""

    def __init__(self, model, names, optimizer, method, rngs):
        self.model, self.method, self.rngs = model, method, rngs
        self.layers = {name: model.get_submodule(name) for name in names}
        self.optimizer = optimizer(model.parameters())
        self.masks, self.scales = {}, {}
        self.choose(0)

    @torch.no_grad()
    def choose(self, step):
        for name, layer in self.layers.items():
            choice = self.rule(step)
            if choice == "soft" and name not in self.scales:
                moved = soft(layer.weight)
                self.scales[name] = float((layer.weight * moved).sum() / moved.square().sum())
            choices = {"transposable": transposable, "dense": torch.ones_like}
            self.masks[name] = choices.get(choice, two_of_four)(layer.weight).bool()

    def rule(self, step):
        """What products take after this step; "dense" in the dense tail."""
        (action,) = self.method.plan({"any": None}, Time(step, STEPS)).values()
        return "dense" if isinstance(action, Switch) else action.rule

    def forward(self, x, dense):
        for name, module in self.model.named_children():
            if name not in self.layers:
                x = module(x)
                continue
            weight, mask = module.weight, self.masks[name]
            taken = soft(weight) * self.scales[name] if self.scales else weight * mask
            taken = weight + (taken - weight).detach()  # straight through
            if self.method.samples_gradient and not dense:
                x = Sampled.apply(x, taken, self.rngs[name]) + module.bias
            else:
                x = nn.functional.linear(x, taken, module.bias)
        return x

    def step(self, step):
        x, y = data(step)
        self.optimizer.zero_grad()
        dense = self.rule(step - 1) == "dense"
        nn.functional.cross_entropy(self.forward(x, dense), y).backward()
        for name, layer in self.layers.items():
            layer.weight.grad += self.method.masked_decay * layer.weight.detach() * ~self.masks[name]
        self.optimizer.step()
        if self.method.is_update(Time(step, STEPS)):
            self.choose(step)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_dense_weight_trains_as_the_definition_says(name, optimizer):
    method, dense = METHODS[name], dense_mlp()
    model = sx.sparsify_(copy.deepcopy(dense), layout="2:4", method=method, init="masked")
    layers = sparse_layers(model)
    own = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = sx.Sparsifier(model, own, method, total_steps=STEPS, seed=3)
    rngs = {name: layer.rng.clone() for name, layer in layers.items() if method.samples_gradient}
    want = DenseTraining(dense, list(layers), OPTIMIZERS[optimizer], method, rngs)
    changed = 0
    for step in range(1, STEPS + 1):
        x, y = data(step)
        before = {name: layer.mask() for name, layer in layers.items()}
        nn.functional.cross_entropy(model(x), y).backward()
        own.step()
        assert sparsifier.step() == method.is_update(Time(step, STEPS))
        want.step(step)
        own.zero_grad()
        flips = 0
        for name, layer in layers.items():
            assert torch.equal(layer.mask(), want.masks[name]), f"step {step}, layer {name}"
            torch.testing.assert_close(layer.weight.detach().view_as(want.layers[name].weight), want.layers[name].weight)
            flips += int((layer.mask() & ~before[name]).sum())
        changed += flips
    assert changed > 20
    assert any(layer.weight.count_nonzero() == layer.weight.numel() for layer in layers.values())


# ---- packed weights ----------------------------------------------------------------------------------------------------


def regrown(weight, mask, score, drop):
    """N:M-RigL on dense tensors: the mask after dropping the weakest of all and growing as many in each four."""
    rows, cols = weight.shape

    def ranked(values, candidates):  # largest first, ties to the lower index
        return sorted(candidates, key=lambda at: (-values[at], at))

    size, gain = weight.abs().flatten().tolist(), score.abs().flatten().tolist()
    fours = [[r * cols + c for c in range(g, min(g + 4, cols))] for r in range(rows) for g in range(0, cols, 4)]
    droppable = [at for four in fours if len(four) > 2 for at in four if mask.flatten()[at]]
    kept = set(mask.flatten().nonzero().flatten().tolist()) - set(ranked(size, droppable)[len(droppable) - drop :])
    new = torch.zeros(rows * cols, dtype=torch.bool)
    for four in fours:
        stays = [at for at in four if at in kept]
        grown = ranked(gain, [at for at in four if at not in kept])[: min(2, len(four)) - len(stays)]
        new[stays + grown] = True
    return new.view(rows, cols)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_packed_weight_regrows_as_the_definition_says(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 18), nn.Tanh(), nn.Linear(18, 21)).double()
    sx.sparsify_(model, layout="2:4")
    layers = sparse_layers(model)
    method = sx.RigL(drop_fraction=0.4, update_interval=3, t_end=1.0)
    own = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = sx.Sparsifier(model, own, method, total_steps=STEPS)
    dense = sx.densify_(copy.deepcopy(model))
    masks, other = {name: layer.mask() for name, layer in layers.items()}, OPTIMIZERS[optimizer](dense.parameters())
    replaced = 0
    for step in range(1, STEPS + 1):
        x, y = data(step)
        for one in (model, dense):
            nn.functional.cross_entropy(one(x), y).backward()
        gradients = {name: dense.get_submodule(name).weight.grad.clone() for name in layers}
        for name, mask in masks.items():
            dense.get_submodule(name).weight.grad *= mask
        for one in (own, other):
            one.step()
        assert sparsifier.step() == (step % 3 == 0 and step < STEPS)
        for name, layer in layers.items():
            weight, mask = dense.get_submodule(name).weight, masks[name]
            if step % 3 == 0 and step < STEPS:
                drop = math.floor(0.4 / 2 * (1 + math.cos(math.pi * step / STEPS)) * layer.nnz)
                masks[name] = regrown(weight.detach(), mask, gradients[name], drop)
                replaced += int((masks[name] & ~mask).sum())
                state = [value for value in other.state[weight].values() if value.shape == weight.shape]
                for tensor in (weight.data, *state):
                    tensor *= masks[name] & mask
            assert torch.equal(layer.mask(), masks[name]), f"step {step}, layer {name}"
            torch.testing.assert_close(layer.dense_weight(), weight.detach())
        for one in (own, other):
            one.zero_grad()
    assert replaced > 30
