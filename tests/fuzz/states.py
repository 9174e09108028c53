"""Any state of a Sparsifier: it is refused in a sentence and changes nothing, or it loads, and training goes on."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from changes import corrupt_
from choices import Choices
from refused import refused
from training import CHANGING, OPTIMIZERS, everything, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

Trainer = tuple[torch.nn.Module, torch.optim.Optimizer, sx.Sparsifier]
SAVED, MORE = 7, 4  # the step of the state, and those that a Sparsifier goes on for with it


def check(choices: Choices) -> str:
    """What became of a state; AssertionError if it is wrong."""
    case = choices.of(CHANGING)
    trainer, saved, before = trained(*case)
    sparsifier, state = trainer[2], copy.deepcopy(saved)
    for _ in range(1 + choices.below(3)):
        corrupt_(choices, state)
    if text := refused(lambda: sparsifier.load_state_dict(state)):
        changed = [name for name, value in snapshot(*trainer).items() if value != before[name]]
        assert not changed, f"refused ({text}), and changed {changed}"
        return "refused"
    trained.cache_clear()  # they go on from another state
    assert str(sparsifier.report())
    run(*trainer, range(SAVED + 1, SAVED + MORE + 1))
    return "loaded"


@cache
def trained(method: str, layout: str) -> tuple[Trainer, dict[str, Any], dict[str, Any]]:
    """In the midst of training, where an update comes every second step; with its state and `snapshot`."""
    model = mlp(layout=layout, method=method)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    chosen = method_named(method, update_interval=2, gradient_steps=2, refresh_interval=2, t_end=1.0, mvue=True)
    sparsifier = sx.Sparsifier(model, optimizer, chosen, total_steps=20)
    run(model, optimizer, sparsifier, range(1, SAVED + 1))
    trainer = model, optimizer, sparsifier
    return trainer, sparsifier.state_dict(), snapshot(*trainer)


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer, sparsifier: sx.Sparsifier) -> dict[str, Any]:
    """All that a state may change, as text and bytes."""
    layers = sparse_layers(model)
    held = {**everything(model, optimizer), **sparsifier.state_dict(), "report": sparsifier.report()}
    held |= {f"{name} watch": layer.watched for name, layer in layers.items()}
    held |= {f"{name} layout": (layer.layout, layer.chosen_by) for name, layer in layers.items()}
    return {name: plain(value) for name, value in held.items()}


def plain(value: Any) -> Any:
    """Tensors as bytes, which compare."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value
