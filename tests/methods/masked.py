"""Training under a mask in plain PyTorch, for comparison with sparse layers, step by step; it shares no code with the package.

float64, dense weights, dense gradients, dense moments. A test says what an update does to the masks.
"""

import copy

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

WIDTHS = (12, 24, 20, 5)

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


def ranked(score, among):
    """The positions where `among` is True, as a list: largest score first, ties to the lower index."""
    score = score.flatten().tolist()
    return sorted(among.flatten().nonzero().flatten().tolist(), key=lambda at: (-score[at], at))


def mask_of(positions, like):
    """bool, of the shape of `like`, True at these positions."""
    mask = torch.zeros(like.numel(), dtype=torch.bool)
    mask[positions] = True
    return mask.view_as(like)


class MaskedTraining:
    """The definition, on dense tensors. A subclass defines `update`.

    Attributes:
        model: dense, with 0 outside of the masks. masks: {layer: bool mask}. stream: (layer, step) -> the seed of its choices.
        targets: {layer: the nnz that it was made for}.
    """

    def __init__(self, model, masks, optimizer, stream, targets):
        self.model, self.masks, self.optimizer, self.stream, self.targets = model, masks, optimizer, stream, targets

    def weight(self, name):
        return self.model.get_submodule(name).weight

    def update(self, step, gradients):
        """Called after every step, with {layer: its dense gradient}; calls `change` for layers whose pattern changes."""
        raise NotImplementedError

    def regularize(self):
        """Called before the optimizer's step; may change gradients."""

    @torch.no_grad()
    def change(self, name, mask):
        """The layer has this mask from now on. What leaves it, and what is new, is 0 in the weight and in its state."""
        weight = self.weight(name)
        stays = (mask & self.masks[name]).view_as(weight)
        for tensor in (weight, *self.moments(weight)):
            tensor *= stays
        self.masks[name] = mask.view_as(weight)

    def moments(self, weight):
        return [value for value in self.optimizer.state[weight].values() if value.shape == weight.shape]

    def step(self, step):
        x, y = data(step)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        gradients = {}
        for name, mask in self.masks.items():
            weight = self.weight(name)
            gradients[name] = weight.grad.clone()
            weight.grad *= mask
        self.regularize()
        self.optimizer.step()
        with torch.no_grad():
            self.update(step, gradients)


def compare(method, definition, *, network="mlp", optimizer="sgd", steps=80, sparsity=0.75, layout="csr", **choices):
    """Trains sparse layers by the method, and dense ones by the definition, and compares masks and weights after every step.

    Args:
        definition: a subclass of MaskedTraining. choices: of the Sparsifier.

    Returns:
        (the sparse model, its Sparsifier, the dense run, the masks after every step as tuples).
    """
    torch.manual_seed(0)
    sparse = NETWORKS[network]().double()
    sx.sparsify_(sparse, sparsity, distribution="erk", layout=layout, method=method, init="masked")
    layers = sparse_layers(sparse)
    own = OPTIMIZERS[optimizer](sparse.parameters())
    sparsifier = sx.Sparsifier(sparse, own, method, total_steps=steps, seed=3, **choices)
    model = sx.densify_(copy.deepcopy(sparse))
    masks = {name: layer.mask() for name, layer in layers.items()}
    targets = {name: layer.target_nnz for name, layer in layers.items()}
    masked = definition(
        model, masks, OPTIMIZERS[optimizer](model.parameters()),
        lambda name, step: sparsifier._stream(f"{step}/{name}"), targets,
    )  # fmt: skip
    history = []
    for step in range(1, steps + 1):
        x, y = data(step)
        nn.functional.cross_entropy(sparse(x), y).backward()
        own.step()
        sparsifier.step()
        own.zero_grad()
        masked.step(step)
        for name, layer in layers.items():
            assert torch.equal(layer.mask(), masked.masks[name]), f"step {step}, layer {name}"
            torch.testing.assert_close(layer.dense_weight(), masked.weight(name).detach())
        history.append(tuple(torch.cat([mask.flatten() for mask in masked.masks.values()]).tolist()))
    return sparse, sparsifier, masked, history
