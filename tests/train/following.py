"""Storage that follows density: what its tests share, and the scenario of two ranks, which ranks.py runs."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import OPTIMIZERS, batch, method_named, mlp, patterns, slots, spread, train

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import auto
from sparse_ext.ops.csr import auto_conv

# Those that begin with few zeros, and end with many.
METHODS = [name for name, kind in sx.METHODS.items() if kind.changes_density and kind().initial_density(0.3) > 0.4]
TOTAL = 30
CHOICES = {"update_interval": 3, "drop_fraction": 0.3, "t_end": 25, "gradient_steps": 2, "cycles": 2}


def table_from_60_percent():
    """Measured: sparse storage is faster from 60 % zeros on, whatever is multiplied."""
    kernels = ((1, 4), (1, 2), (2, 2), (3, 1))
    names = (auto.STORAGE, *(name for kernel in kernels for name in auto_conv.all_in_table(kernel)))
    device, rows = auto.device_name(torch.device("cpu")), (auto.Row(16, 240, 0, 0.4),)
    return {(device, dtype, name): rows for name in names for dtype in (torch.float32, torch.float64)}


def stored(model):
    return [(layer.layout, layer.capacity) for layer in sparse_layers(model).values()]


def build(method, seed=0, optimizer="adamw", layout="auto", kind="linear", **choices):
    model = mlp(seed, layout=layout, method=method, kind=kind)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    chosen = method_named(method, **(CHOICES | choices))
    return model, optimizer, sx.Sparsifier(model, optimizer, chosen, total_steps=TOTAL, seed=seed)


def held(model, optimizer):
    """All that has one value for each position, as flat matrices."""
    layers = sparse_layers(model).values()
    return [{name: spread(layer, value) for name, value in slots(layer, optimizer).items()} for layer in layers]


def switches(method):
    """The steps at which the storage of a layer changes."""
    model, optimizer, sparsifier = build(method)
    before, found = stored(model), []
    for step, _ in train(model, optimizer, sparsifier, range(1, TOTAL + 1)):
        found += [step] if stored(model) != before else []
        before = stored(model)
    return found


def densities_that_change(rank):
    """Every method under DDP, on batches of its own for each rank; {(method, layout): [patterns, storage, reasons] by step}."""
    before, found = auto.POLICY.table, {}
    auto.POLICY.table = table_from_60_percent()
    try:
        for method in METHODS:
            for layout in ("auto", "csr"):
                found[f"{method} {layout}"] = _trained(method, layout, rank)
    finally:
        auto.POLICY.table = before
    return found


def _trained(method, layout, rank):
    inner = mlp(dtype=torch.float64, layout=layout, method=method)
    model = DDP(inner)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL)
    history = []
    for step in range(1, TOTAL + 1):
        x, y = batch(step, dtype=torch.float64)
        nn.functional.cross_entropy(model(x.chunk(2)[rank]), y.chunk(2)[rank]).backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        history.append((patterns(inner), stored(inner), [row.reason for row in sparsifier.report().layers]))
    return history


SCENARIOS = (densities_that_change,)
