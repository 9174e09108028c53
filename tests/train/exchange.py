"""Scenarios of ranks.py: methods whose layers exchange weights, read gradients, or remember what was ever in use."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import CLASSES, HIDDEN, IN, OPTIMIZERS, batch, patterns

import sparse_ext as sx

METHODS = {
    "snfs": sx.SNFS(update_interval=3),
    "mest": sx.MEST(update_interval=3),
    "mest soft": sx.MEST(update_interval=3, soft=True, until=(0.4, 0.7)),
    "set": sx.SET(0.4, 3, 1.0, unfired_first=True),
    "rigl": sx.RigL(0.4, 3, 1.0, unfired_first=True),
}
STEPS = 13


def build(method, dtype=torch.float64):
    """Two sparse layers and a dense one, for a method of the table."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    return sx.sparsify_(model.to(dtype), 0.7, method=METHODS[method], exclude=["4"])


def history(method, wrap, part):
    """The patterns after every step. wrap: of the model. part: of a batch that this process takes."""
    inner = build(method)
    model = wrap(inner)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, METHODS[method], total_steps=STEPS)
    found = []
    for step in range(1, STEPS + 1):
        x, y = batch(step, dtype=torch.float64)
        nn.functional.cross_entropy(model(part(x)), part(y)).backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        found.append(patterns(inner))
    return found


def exchange_between_layers(rank):
    """float64, half a batch on each rank: as one process with the whole batch (the test trains that one)."""
    return {method: history(method, DDP, lambda whole: whole.chunk(2)[rank]) for method in METHODS}


SCENARIOS = (exchange_between_layers,)
