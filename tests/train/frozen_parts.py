"""What the tests of partly frozen layers share: models, optimizers, and what is frozen of a layer."""

import torch
from torch import nn
from training import OPTIMIZERS, PATTERNS

import sparse_ext as sx

IN, CLASSES = 12, 6
OTHERS = {
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2, foreach=True),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=False),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2, weight_decay=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2, weight_decay=1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2, weight_decay=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True, weight_decay=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "adagrad_decay": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-2, initial_accumulator_value=0.3),
}
EVERY = {**OPTIMIZERS, **OTHERS}
LAYOUTS = ["plain", "2:4", *PATTERNS]
BY = ["element", "row", "layer"]


def network(layout="plain", dtype=torch.float32, conv=False):
    """Two layers and a head; of convolutions the second has groups."""
    torch.manual_seed(0)
    if conv:
        first, second = nn.Conv2d(3, 16, 2, padding=1), nn.Conv2d(16, 12, (3, 1), groups=4)
        layers = nn.Unflatten(1, (3, 2, 2)), first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(36, CLASSES)
    else:
        layers = nn.Linear(IN, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, CLASSES)
    model = nn.Sequential(*layers).to(dtype)
    if layout == "plain":
        return model
    return sx.sparsify_(model, 0.5, layout=layout, distribution="uniform", init="masked", exclude=str(len(layers) - 1))


def trainer(model, optimizer="sgd", **choices):
    optimizer = EVERY[optimizer](model.parameters()) if isinstance(optimizer, str) else optimizer
    method = sx.SAT(**{"update_interval": 4, "smoothing": 0.0, **choices})
    return optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100)


def frozen(managed):
    """bool, of the weight's shape."""
    part, weight = managed.part, managed.layer.weight
    if part.by == "layer":
        return torch.full_like(weight, not part.trained, dtype=torch.bool)
    at, rows = part.at()
    trains = torch.zeros(weight.shape if rows is None else (rows, weight.numel() // rows), dtype=torch.bool)
    (trains.view(-1) if rows is None else trains)[at] = True
    return ~trains.view(weight.shape)


def values(optimizer, parameter):
    state = {key: v for key, v in optimizer.state[parameter].items() if torch.is_tensor(v) and v.shape == parameter.shape}
    return {"weight": parameter.detach(), **state}


def snapshot(optimizer, sparsifier):
    return {m.name: {key: v.clone() for key, v in values(optimizer, m.layer.weight).items()} for m in sparsifier._layers}


def check_frozen(optimizer, sparsifier, before):
    moved = 0
    for managed in sparsifier._layers:
        still = frozen(managed)
        now = values(optimizer, managed.layer.weight)
        assert now.keys() == before[managed.name].keys()
        for key, value in now.items():
            assert torch.equal(value[still], before[managed.name][key][still]), (managed.name, key)
        moved += int((now["weight"] != before[managed.name]["weight"]).sum())
        assert still.any() or managed.part.by == "layer"
    assert moved
