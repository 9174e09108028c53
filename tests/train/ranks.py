"""Run by test_distributed.py as each of two gloo processes: runs every scenario below, and leaves what it found.

    python ranks.py RANK FOLDER

A scenario returns plain values and tensors; the test compares those of both ranks. It may raise: then the error counts.
"""

import sys
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import children
import exchange
import following
import partly
import sharded
import torch
import torch.distributed as dist
import uneven
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import (
    DENSE_WEIGHT,
    KINDS,
    OPTIMIZERS,
    REGROWING,
    backward,
    batch,
    chosen_layer,
    method_named,
    mlp,
    patterns,
    push,
    trainer,
)

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

ONE = [[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]  # entries at 0, 1, 4, 5
STEPS = 13


def gradients_that_cancel(rank):
    """Position 2: +9 and -9, mean 0, mean magnitude 9. Position 7: +1 and +1."""
    model = DDP(nn.Sequential(chosen_layer(torch.tensor(ONE))))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=1, t_end=1.0, schedule="constant")
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    gradient = torch.zeros(8)
    gradient[2], gradient[7] = 9.0 * (-1) ** rank, 1.0
    push(model, gradient.view(2, 4))
    optimizer.step()
    return sparsifier.step(), patterns(model)


def one_rank_without_signal(rank):
    """Rank 1 sees only zeros: its own growth would take the lowest indices."""
    model = DDP(mlp(sparsity=0.8))
    optimizer, sparsifier = trainer(model)
    found = []
    for step in range(1, STEPS):
        x, y = batch(step + 100 * rank)
        (nn.functional.cross_entropy(model(x), y) * (1 - rank)).backward()
        optimizer.step()
        found.append((sparsifier.step(), patterns(model)))
        optimizer.zero_grad()
    return found


def non_finite_on_one_rank(rank):
    """Both postpone."""
    model = DDP(mlp())
    optimizer, sparsifier = trainer(model)
    found = []
    for step in range(1, 6):
        x, y = batch(step)
        scale = float("inf") if (step, rank) == (3, 1) else 1.0
        (nn.functional.cross_entropy(model(x), y) * scale).backward()
        found.append(sparsifier.step())
        optimizer.zero_grad()
    return found, patterns(model)


def two_of_four(rank):
    """Every method of 2:4 on batches of its own for each rank, with micro-batches; {method: patterns}, and seeds of samples."""
    found, seeds = {}, []
    for method in ("rigl", "set", *DENSE_WEIGHT):
        inner = mlp(layout="2:4", method=method)
        model = DDP(inner)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        choices = {"update_interval": 3, "t_end": 1.0, "refresh_interval": 3, "mvue": True}
        sparsifier = sx.Sparsifier(model, optimizer, method_named(method, **choices), total_steps=9)
        for step in range(1, 10):
            for half in (0, 1):
                x, y = batch(10 * step + half + 1000 * rank)
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
        found[method] = (patterns(model), [layer.layout for layer in sparse_layers(inner).values()])
        seeds += [int(layer.rng[0]) for layer in sparse_layers(inner).values() if layer.rng is not None]
    return found, seeds


def trained_by(rank, method, layout):
    """Packed weights by any method, all of its schedule, on batches of its own for each rank; patterns, and the weights."""
    model = DDP(mlp(layout=layout, method=method))
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    chosen = method_named(method, update_interval=3, drop_fraction=0.4, t_end=1.0)
    sparsifier = sx.Sparsifier(model, optimizer, chosen, total_steps=STEPS)
    history = []
    for step in range(1, STEPS):
        backward(model, step + 100 * rank)
        optimizer.step()
        history.append((sparsifier.step(), patterns(model)))
        optimizer.zero_grad()
    return history, [layer.weight.detach() for layer in sparse_layers(model).values()]


def a_dense_weight_after_ddp(rank):
    """A packed layer cannot become longer any more."""
    model = DDP(mlp(layout="2:4"))
    sx.Sparsifier(model, OPTIMIZERS["adamw"](model.parameters()), sx.FST(), total_steps=9)


def half_at_once(model, x, y):
    nn.functional.cross_entropy(model(x), y).backward()


def quarters(model, x, y):
    """Two micro-batches, of which only the second waits for the other rank."""
    (first, second), (labels, others) = x.chunk(2), y.chunk(2)
    with model.no_sync():
        (nn.functional.cross_entropy(model(first), labels) / 2).backward()
    (nn.functional.cross_entropy(model(second), others) / 2).backward()


def half_batches(rank, add_gradients=half_at_once):
    """float64: as one process with the whole batch (the test trains that one); {kind of layer: patterns}."""
    found = {kind: [] for kind in KINDS}
    for kind, history in found.items():
        model = DDP(mlp(dtype=torch.float64, kind=kind))
        optimizer, sparsifier = trainer(model)
        for step in range(1, STEPS):
            x, y = batch(step, dtype=torch.float64)
            add_gradients(model, x.chunk(2)[rank], y.chunk(2)[rank])
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
            history.append(patterns(model))
    return found


def accumulation_without_sync(rank):
    """As above, each half in two micro-batches."""
    return half_batches(rank, quarters)


def convolutions_with_batchnorm(rank):
    """Other images on each rank, and so other statistics."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.Conv2d(16, 8, 2, stride=2)
    norms = (nn.BatchNorm2d(16), nn.ReLU(inplace=True)), (nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    model = DDP(sx.sparsify_(nn.Sequential(nn.Unflatten(1, (1, 3, 4)), first, *norms[0], second, *norms[1], nn.Flatten()), 0.8))
    optimizer, sparsifier = trainer(model)
    found = []
    for step in range(1, STEPS):
        backward(model, step + 100 * rank)
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        found.append(patterns(model))
    return found


def random_growth(rank):
    """SET: every rank has the same random numbers; the only message is the hash."""
    model = DDP(mlp())
    optimizer, sparsifier = trainer(model, "set")
    messages, found, send = [], [], dist.all_reduce
    for step in range(1, STEPS):
        backward(model, step + 100 * rank)
        optimizer.step()
        dist.all_reduce = lambda *args, **kwargs: messages.append(args)
        try:
            sparsifier.step()
        finally:
            dist.all_reduce = send
        optimizer.zero_grad()
        found.append(patterns(model))
    return found, len(messages)


def diverged_weights(rank):
    """The same pattern, other weights: they drop different entries."""
    model = mlp()
    for layer in sparse_layers(model).values():
        layer.weight.data = layer.weight.data.roll(rank)
    optimizer, sparsifier = trainer(model)
    for step in range(1, 4):
        backward(model, step)
        optimizer.step()
        sparsifier.step()


def equal_seeds(rank):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 30))
    sx.sparsify_(model, 0.8)
    return patterns(model), [layer.weight.detach() for layer in sparse_layers(model).values()]


def different_seeds(rank):
    """DDP sends rank 0's parameters and buffers to all: from then on the ranks are equal, derived tensors included."""
    model = DDP(mlp(seed=rank))
    x, y = batch(1)
    with torch.no_grad():
        out = model(x)
    optimizer, sparsifier = trainer(model)
    changed = []
    for _ in range(7):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        changed.append(sparsifier.step())
        optimizer.zero_grad()
    return out, changed, patterns(model), loss.detach()


def compiled_before_ddp(rank):
    """Rank 0's patterns arrive in the buffers of a program that has run with others."""
    inner, (x, _) = mlp(seed=rank), batch(1)
    compiled = torch.compile(inner, backend="aot_eager")
    compiled(x)
    DDP(inner)
    return compiled(x).detach(), patterns(inner)


class Denser(sx.Static):
    def max_density(self, density):
        return 2 * density


def no_room_after_wrapping(rank):
    model = DDP(mlp())
    sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), Denser(), total_steps=10)


def no_room_inside_ddp(rank):
    model = nn.Sequential(DDP(mlp()))
    sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), Denser(), total_steps=10)


def state_moves_between_ddp_and_plain(rank):
    model = DDP(mlp())
    _, sparsifier = trainer(model)
    _, plain = trainer(mlp())
    plain.load_state_dict(sparsifier.state_dict())
    sparsifier.load_state_dict(plain.state_dict())
    return [layer.name for layer in sparsifier.report().layers]


SCENARIOS = {
    f.__name__: f
    for f in (
        gradients_that_cancel, one_rank_without_signal, non_finite_on_one_rank, half_batches, accumulation_without_sync,
        convolutions_with_batchnorm, two_of_four, a_dense_weight_after_ddp, random_growth, diverged_weights, equal_seeds,
        different_seeds, no_room_after_wrapping, no_room_inside_ddp, state_moves_between_ddp_and_plain, compiled_before_ddp,
        *exchange.SCENARIOS, *sharded.SCENARIOS, *uneven.SCENARIOS, *following.SCENARIOS, *partly.SCENARIOS,
    )
}  # fmt: skip
SCENARIOS |= {f"trained_by_{n}": partial(trained_by, method=how[0], layout=how[1]) for n, how in enumerate(REGROWING)}


def main(rank, folder):
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    for name, scenario in SCENARIOS.items():
        try:
            outcome = {"value": scenario(rank)}
        except Exception as error:
            outcome = {"kind": type(error).__name__, "error": str(error), "trace": traceback.format_exc()}
        torch.save(outcome, folder / f"{name}.{rank}")
        dist.barrier()
    children.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
