"""Training equals a dense model under a mask, step by step: RigL and SET once more, sharing no code with ours.

Reference: reference/methods.md 2.0 to 2.2 in plain PyTorch, float64, dense weights, dense gradients, dense moments.
"""

import copy
import math

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import reference

STEPS, INTERVAL, ALPHA, T_END = 80, 4, 0.4, 0.75
WIDTHS = (12, 24, 20, 5)

GROWTH = {"static": None, "set": "random", "rigl": "gradient"}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


def dense_mlp():
    a, b, c, d = WIDTHS
    return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(), nn.Linear(c, d))


def dense_cnn():
    """On the same inputs as images of 3 x 4 pixels."""
    first = nn.Conv2d(1, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(inplace=True)
    second = nn.Conv2d(10, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
    return nn.Sequential(nn.Unflatten(1, (1, 3, 4)), *first, *second, nn.Flatten(), nn.Linear(32, WIDTHS[-1]))


NETWORKS = {"mlp": dense_mlp, "cnn": dense_cnn}


def data(step):
    """As digits: some inputs are 0 in all rows, so exact ties among gradients occur."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, WIDTHS[0], dtype=torch.float64, generator=generator).relu()
    x[:, :2] = 0.0
    return x, torch.randint(WIDTHS[-1], (8,), generator=generator)


class MaskedTraining:
    """The definition, on dense tensors."""

    def __init__(self, model, masks, optimizer, growth):
        self.model, self.masks, self.optimizer, self.growth = model, masks, optimizer, growth

    def step(self, step, stream):
        x, y = data(step)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        dense_gradients = {}
        for name, mask in self.masks.items():
            weight = self.model.get_submodule(name).weight
            dense_gradients[name] = weight.grad.clone()
            weight.grad *= mask
        self.optimizer.step()
        if self.growth and step % INTERVAL == 0 and step < T_END * STEPS:
            for name, gradient in dense_gradients.items():
                self.update(name, step, gradient, stream)

    @torch.no_grad()
    def update(self, name, step, gradient, stream):
        weight, mask = self.model.get_submodule(name).weight, self.masks[name].flatten()
        nnz = int(mask.sum())
        k = math.floor(ALPHA / 2 * (1 + math.cos(math.pi * step / (T_END * STEPS))) * nnz)

        def ranked(score, among):  # largest first, ties to the lower index
            candidates = among.nonzero().flatten().tolist()
            return sorted(candidates, key=lambda i: (-score[i], i))

        keep = torch.zeros_like(mask)
        keep[ranked(weight.abs().flatten().tolist(), mask)[: nnz - k]] = True
        if self.growth == "gradient":
            score = gradient.abs().flatten().tolist()
        else:
            score = reference.random_u32(stream(name), mask.numel()).tolist()
        new = keep.clone()
        new[ranked(score, ~keep)[:k]] = True

        stays = (new & mask).view_as(weight)
        state = self.optimizer.state[weight]
        for tensor in (weight, *(v for v in state.values() if v.shape == weight.shape)):
            tensor *= stays
        self.masks[name] = new.view_as(weight)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", GROWTH)
def test_pattern_sequence_equals_a_masked_dense_model(name, optimizer, network):
    torch.manual_seed(0)
    sparse = NETWORKS[network]().double()
    sx.sparsify_(sparse, 0.75, distribution="erk")
    layers = sparse_layers(sparse)
    kind = sx.METHODS[name]
    method = kind() if kind is sx.Static else kind(drop_fraction=ALPHA, update_interval=INTERVAL, t_end=T_END)
    own = OPTIMIZERS[optimizer](sparse.parameters())
    sparsifier = sx.Sparsifier(sparse, own, method, total_steps=STEPS, seed=3)

    model = sx.densify_(copy.deepcopy(sparse))
    masks = {layer: module.mask() for layer, module in layers.items()}
    masked = MaskedTraining(model, masks, OPTIMIZERS[optimizer](model.parameters()), GROWTH[name])

    patterns = set()
    for step in range(1, STEPS + 1):
        x, y = data(step)
        nn.functional.cross_entropy(sparse(x), y).backward()
        own.step()
        sparsifier.step()
        own.zero_grad()

        masked.step(step, lambda layer, step=step: sparsifier._stream(f"{step}/{layer}"))
        for layer, module in layers.items():
            assert torch.equal(module.mask(), masked.masks[layer]), f"step {step}, layer {layer}"
            torch.testing.assert_close(module.dense_weight(), model.get_submodule(layer).weight.detach())
        patterns.add(tuple(torch.cat([m.mask().flatten() for m in layers.values()]).tolist()))
    # Updates at 4, 8 ... 56; the last ones may have nothing left to replace.
    assert len(patterns) == 1 if name == "static" else len(patterns) > 10
