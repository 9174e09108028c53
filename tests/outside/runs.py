"""Training runs of a layout and a method from outside. In processes of their own:

python runs.py resume FOLDER        continues every checkpoint there
python runs.py rank RANK FOLDER     is one of two gloo processes
"""

import sys
from datetime import timedelta
from pathlib import Path

import children
import ell  # noqa: F401  (registers the layout)
import momentum
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

TOTAL = 40
CHOICES = {"update_interval": 5, "drop_fraction": 0.4, "t_end": 1.0}
METHODS = {
    "rigl": sx.RigL(gradient_steps=2, **CHOICES),
    "set": sx.SET(**CHOICES),
    "sr-ste": sx.SRSTE(),
    "sparse-momentum": momentum.SparseMomentum(**CHOICES),
}
# Everything that uses something from outside.
PAIRS = [(method, "ell") for method in METHODS] + [("sparse-momentum", layout) for layout in ("csr", "2:4", "auto")]


def build(method, layout, seed=0, wrap=lambda model: model):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 6))
    sparsity = 0.5 if layout == "2:4" else 0.7
    model = wrap(sx.sparsify_(model, sparsity, layout=layout, method=METHODS[method], exclude="4"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, sx.Sparsifier(model, optimizer, METHODS[method], total_steps=TOTAL)


def steps(model, optimizer, sparsifier, numbers, rank=0):
    """Trains; yields after each optimizer step, before the pattern changes, and after it."""
    for number in numbers:
        generator = torch.Generator().manual_seed(100 * number + rank)
        x, y = torch.randn(16, 12, generator=generator), torch.randint(6, (16,), generator=generator)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        yield number, False
        sparsifier.step()
        optimizer.zero_grad()
        yield number, True


def run(model, optimizer, sparsifier, numbers, rank=0):
    for _ in steps(model, optimizer, sparsifier, numbers, rank):
        pass


def everything(model, optimizer, sparsifier):
    """Copies of all that training changes, by name."""
    found = dict(model.state_dict())
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    for name, signals in sparsifier.state_dict()["signals"].items():
        found |= {f"{name}.{signal}.{key}": value for signal, state in signals.items() for key, value in state.items()}
    return {key: value.clone() for key, value in found.items()}


def resume(folder):
    for path in folder.glob("*.checkpoint"):
        saved = torch.load(path, weights_only=True)
        things = build(*saved["pair"], seed=99)  # nothing may come from construction
        for thing, state in zip(things, saved["states"], strict=True):
            thing.load_state_dict(state)
        run(*things, range(saved["step"] + 1, TOTAL + 1))
        torch.save(everything(*things), path.with_suffix(".result"))


def rank(number, folder):
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=number, world_size=2, timeout=timedelta(seconds=60))
    found = {}
    for method, layout in PAIRS:
        things = build(method, layout, seed=number, wrap=DDP)  # DDP sends rank 0's pattern
        run(*things, range(1, 21), rank=number)
        found[f"{method} {layout}"] = {name: layer.mask() for name, layer in sparse_layers(things[0]).items()}
    torch.save(found, folder / f"{number}.masks")
    dist.barrier()
    children.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *arguments = sys.argv[1:]
    {"resume": resume, "rank": rank}[what](*map(int, arguments[:-1]), Path(arguments[-1]))
