"""What the tests of this folder share: a small model, optimizers, a deterministic loop, tensors as matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import ell  # noqa: F401
import momentum  # noqa: F401
import thinning  # noqa: F401  (all register themselves, also in child processes)
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import SparseLayer, sparse_layers
from sparse_ext.ops import LAYOUTS


class Lion(torch.optim.Optimizer):
    """A custom optimizer with one moment (Chen et al. 2023, "Symbolic discovery of optimization algorithms")."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                moment = state.setdefault("exp_avg", torch.zeros_like(p))
                state["step"] = state.get("step", 0) + 1
                p.sub_(group["lr"] * moment.lerp(p.grad, 1 - beta1).sign())
                moment.lerp_(p.grad, 1 - beta2)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "lion": lambda p: Lion(p, lr=1e-3),
}


def method_named(name: str, **choices: Any) -> Any:
    """METHODS[name] with those of the choices that it has; what has a start starts at once."""
    kind, choices = sx.METHODS[name], {"t_start": 0, **choices}
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in choices.items() if key in known})


IN, HIDDEN, CLASSES, BATCH = 12, 20, 6, 16


# Of every kind of layer: the shape of an input, two layers, and the length of what the second gives.
KINDS: dict[str, tuple[tuple[int, ...], Callable[..., nn.Module], Callable[..., nn.Module], int]] = {
    "linear": ((IN,), partial(sx.SparseLinear, IN, HIDDEN), partial(sx.SparseLinear, HIDDEN, HIDDEN), HIDDEN),
    "conv1d": ((3, 4), partial(sx.SparseConv1d, 3, 16, 4, padding=2), partial(sx.SparseConv1d, 16, 8, 2, stride=2), 16),
    "conv2d": ((3, 2, 2), partial(sx.SparseConv2d, 3, 12, 2, padding=1), partial(sx.SparseConv2d, 12, 8, (3, 1)), 24),
}


def mlp(
    seed: int = 0,
    sparsity: float = 0.7,
    dtype: torch.dtype = torch.float32,
    layout: str = "csr",
    method: str = "static",
    kind: str = "linear",
) -> nn.Sequential:
    """Two sparse layers of a kind, for "csr" one of them with unused slots, and a dense one."""
    shape, *layers, length = KINDS[kind]
    (first, most), (other, room) = (densities(make, 1 - sparsity, method) for make in layers)
    choices = [
        {"sparsity": 1 - first, "capacity": most},
        {"sparsity": 1 - other, "capacity": min(1.0, max(1.2 * other, room))},
    ]
    if layout == "2:4":
        choices = 2 * [{"capacity": 1.0 if method in DENSE_WEIGHT else 0.5}]
    torch.manual_seed(seed)
    first, second = (make(dtype=dtype, layout=layout, **choice) for make, choice in zip(layers, choices, strict=True))
    for layer in (first, second) if layout != "2:4" else ():
        layer.aim_at_(1 - sparsity)
    if kind == "linear":
        return nn.Sequential(first, nn.Tanh(), second, nn.ReLU(), nn.Linear(length, CLASSES, dtype=dtype))
    head = nn.Sequential(nn.Flatten(), nn.Linear(length, CLASSES, dtype=dtype))
    return nn.Sequential(nn.Unflatten(1, shape), first, nn.Tanh(), second, nn.ReLU(inplace=True), head)


def densities(make: Callable[..., nn.Module], density: float, method: str) -> tuple[float, float]:
    """With which a layer begins that is made for this density, and for which it has room, as `sparsify_` has it."""
    if method not in sx.METHODS:  # a test may have one of its own
        return density, density
    pattern, chosen = make(device="meta").pattern, sx.METHODS[method]()
    made = round(density * pattern.rows * pattern.cols) / (pattern.rows * pattern.cols)
    first = chosen.initial_density(made) if chosen.initial_density(made) > made else density
    room = max(first, chosen.max_density(made)) if chosen.max_density(made) > made else first
    spare = chosen.spare_per_row + 1 / pattern.rows if chosen.spare_per_row else 0.0  # one more, whichever way it is rounded
    return first, min(1.0, room + spare / pattern.cols)


# Methods that train a dense weight; and the others, with the layouts that they train.
DENSE_WEIGHT = [name for name, kind in sx.METHODS.items() if kind.dense_weight]
PATTERNS = list({kind.pattern: name for name, kind in reversed(LAYOUTS.items()) if kind.pattern.REGROWS}.values())


def trains(method: str, layout: str) -> bool:
    """Whether a Sparsifier takes layers of this layout for the method; if not, it says why."""
    model = mlp(layout=layout, method=method)
    try:
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method_named(method), total_steps=1)
    except ValueError:
        return False
    return True


PACKED = [(name, layout) for name in sx.METHODS if name not in DENSE_WEIGHT for layout in PATTERNS if trains(name, layout)]
# Those whose patterns change at all.
REGROWING = [(name, layout) for name, layout in PACKED if method_named(name).changes_patterns]
KEEPING = [(name, layout) for name, layout in REGROWING if not sx.METHODS[name].changes_density]
NEVER_GROWING = ("gmp",)
RENEWING = ("ac/dc",)  # growth renews the optimizer's state of all weights
CHANGING = REGROWING + [(name, layout) for name in DENSE_WEIGHT for layout in (*PATTERNS, "2:4") if trains(name, layout)]
CHANGING = list(dict.fromkeys(CHANGING))
# And those that do anything else, such as freezing a part of a layer.
ACTING = CHANGING + [how for how in PACKED if sx.METHODS[how[0]].freezes and how not in CHANGING]


def batch(step: int, size: int = BATCH, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step: always the same."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(size, IN, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def backward(model: nn.Module, step: int) -> torch.Tensor:
    dtype = next(p.dtype for p in model.parameters())
    x, y = batch(step, dtype=dtype)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: sx.Sparsifier | None, steps: range
) -> Iterator[tuple[int, bool]]:
    """Trains; yields (step, did the pattern change) after each step. Steps count from 1."""
    for step in steps:
        backward(model, step)
        optimizer.step()
        changed = sparsifier.step() if sparsifier else False
        yield step, changed
        optimizer.zero_grad(set_to_none=True)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: sx.Sparsifier | None, steps: range) -> int:
    """Trains; the number of steps that changed the pattern."""
    return sum(changed for _, changed in train(model, optimizer, sparsifier, steps))


# ---- layers and tensors as matrices --------------------------------------------------------------------------------


def positions(layer: SparseLayer) -> torch.Tensor:
    """int64 [nnz]: the linear index of every entry, read from the buffers alone."""
    if layer.layout == "dense":
        return torch.arange(layer.weight.numel())
    if "row_ptr" not in layer.state_dict() and layer.layout != "2:4":  # from outside
        at = layer.pattern.positions()
        return at[at >= 0]
    if layer.layout == "2:4":
        codes = torch.stack([layer.ids & 15, layer.ids >> 4], 2).flatten(1).long()[:, : -(-layer.pattern.cols // 4)]
        places = torch.stack([codes & 3, codes >> 2], 2) + 4 * torch.arange(codes.shape[1])[:, None]
        return (places.flatten(1) + layer.pattern.cols * torch.arange(len(codes))[:, None]).flatten()
    counts = layer.row_ptr.diff().long()
    rows = torch.repeat_interleave(torch.arange(counts.numel()), counts)
    return rows * layer.pattern.cols + layer.col_idx[: rows.numel()].long()


def spread(layer: SparseLayer, values: torch.Tensor) -> torch.Tensor:
    """[rows * cols] with the slots' values at the layer's positions, 0 elsewhere; a dense weight's slots are these already."""
    if layer.chosen_by is not None:
        return values.clone()
    at = positions(layer)
    flat = values.new_zeros(layer.pattern.rows * layer.pattern.cols)
    flat[at] = values[layer.slots() >= 0]
    return flat


def active(layer: SparseLayer) -> torch.Tensor:
    """bool [rows * cols]."""
    flags = torch.zeros(layer.pattern.rows * layer.pattern.cols, dtype=torch.bool)
    flags[positions(layer)] = True
    return flags


def slots(layer: SparseLayer, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that has one value per slot: weight, grad and the optimizer's moments."""
    state = optimizer.state.get(layer.weight, {})
    moments = {key: value for key, value in state.items() if torch.is_tensor(value) and value.dim()}
    grad = {} if layer.weight.grad is None else {"grad": layer.weight.grad}
    return {"weight": layer.weight.detach(), **grad, **moments}


def masks(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.mask() for name, layer in sparse_layers(model).items()}


def patterns(model: nn.Module) -> list[list[int]]:
    """The positions of every layer."""
    return [positions(layer).tolist() for layer in sparse_layers(model).values()]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copies of all that training changes, by name."""
    found = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    return {key: value.clone() if torch.is_tensor(value) else value for key, value in found.items()}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit for bit."""
    assert actual.keys() == expected.keys()
    assert not [key for key, value in expected.items() if not _is_same(actual[key], value)]


def _is_same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(_is_same(actual[key], value) for key, value in expected.items())
    return torch.equal(actual, expected) if torch.is_tensor(expected) else actual == expected


# ---- one layer whose dense gradient the test chooses ---------------------------------------------------------------


def chosen_layer(weights: torch.Tensor, **kwargs: Any) -> sx.SparseLinear:
    """A layer without bias whose matrix is `weights`, with its non-zeros as pattern."""
    dense = nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=weights.dtype)
    dense.weight.data.copy_(weights)
    return sx.SparseLinear.from_dense(dense, mask=weights != 0, **kwargs)


def push(model: nn.Module, gradient: torch.Tensor) -> None:
    """A backward pass in which the dense weight gradient of `model` (one layer) is exactly `gradient`."""
    eye = torch.eye(gradient.shape[1], dtype=gradient.dtype)
    (model(eye) * gradient.t()).sum().backward()


ONE = [[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]  # entries at 0, 1, 4, 5


def at(position: int, value: float) -> torch.Tensor:
    """A gradient [2, 4] with one element that is not 0."""
    gradient = torch.zeros(8)
    gradient[position] = value
    return gradient.view(2, 4)


def constant_rigl(**choices: Any) -> tuple[nn.Sequential, sx.Sparsifier]:
    """The layer ONE; every third step replaces the weakest of its 4 entries."""
    model = nn.Sequential(chosen_layer(torch.tensor(ONE)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=3, schedule="constant", **choices)
    return model, sx.Sparsifier(model, optimizer, method, total_steps=100)


def single(lr=0.0, **kwargs):
    """One layer with 4 entries of which each step replaces the weakest."""
    layer = chosen_layer(torch.tensor(ONE))
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    method = sx.RigL(drop_fraction=0.25, update_interval=1, t_end=1.0, schedule="constant")
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100, **kwargs)


def rigl(model, kind="sgd", interval=3, **kwargs):
    optimizer = OPTIMIZERS[kind](model.parameters())
    method = sx.RigL(drop_fraction=0.4, update_interval=interval, t_end=1.0)
    return optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100, **kwargs)


def trainer(model, method="rigl", kind="adamw", **kwargs):
    """As above, by any method."""
    optimizer = OPTIMIZERS[kind](model.parameters())
    method = method_named(method, update_interval=3, drop_fraction=0.4, t_end=1.0)
    return optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100, **kwargs)


def dense_weight_trainer(method, optimizer="sgd", total_steps=100, **kwargs):
    """2:4 layers with a dense weight."""
    model = mlp(layout="2:4", method="fst")
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=total_steps, **kwargs)
