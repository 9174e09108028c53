"""Trains a layer by any optimizer, with an update of its pattern, and a weight that had the new pattern from the start."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import RESUMED
from torch import nn
from training import active, positions

import sparse_ext as sx

TABLE = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "optimizers.py"))

ROWS, COLS, STEPS = 12, 20, 8
UPDATE, DROPPED = 4, 20


def step(optimizer: Any, weight: nn.Parameter, bias: nn.Parameter, gradient: torch.Tensor) -> None:
    def closure() -> torch.Tensor:
        weight.grad, bias.grad = gradient.clone(), torch.full_like(bias, 0.5)
        return gradient.sum()

    closure()
    try:
        optimizer.step()
    except Exception:  # an optimizer that asks for a closure
        optimizer.step(closure)


def assert_follows(make: Callable[[Any], Any], **kwargs: Any) -> None:
    """After an update the layer trains as if it had had the new pattern from the start.

    What is dropped was 0 and got no gradient, so that nothing but the pattern tells the two apart.
    """
    torch.manual_seed(0)
    layer = sx.SparseLinear(COLS, ROWS, sparsity=0.7)
    silent, nnz = positions(layer)[::3][:DROPPED], layer.nnz
    layer.set_matrix_(layer.dense_weight().flatten().index_fill(0, silent, 0).view(ROWS, COLS), layer.mask())
    begun, before, bias = layer.dense_weight().flatten(), active(layer), nn.Parameter(layer.bias.detach().clone())
    gradients = torch.randn(STEPS, ROWS * COLS)
    gradients[:UPDATE, silent] = 0
    optimizer = trained(make([layer.weight, layer.bias]))
    method = sx.SET(update_interval=UPDATE, t_end=UPDATE + 1, drop_fraction=(DROPPED + 0.5) / nnz, schedule="constant")
    sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=100, **kwargs)
    for number, gradient in enumerate(gradients, 1):
        step(optimizer, layer.weight, layer.bias, gradient[positions(layer)])
        assert sparsifier.step() == (number == UPDATE)
    now = positions(layer)
    assert DROPPED / 2 < int((~before[now]).sum()) == int(before[silent].sum() - active(layer)[silent].sum())

    weight = nn.Parameter(begun[now])
    straight = trained(make([weight, bias]))
    for number, gradient in enumerate(gradients, 1):
        step(straight, weight, bias, gradient[now] * (before[now] if number <= UPDATE else 1.0))
    scale = float(weight.detach().abs().max())
    torch.testing.assert_close(layer.weight.detach() / scale, weight.detach() / scale, **RESUMED)


def trained(optimizer: Any) -> Any:
    """Schedule-free optimizers have to be told."""
    if callable(train := getattr(optimizer, "train", None)):
        train()
    return optimizer


def verdict_holds(kind: Any) -> str:
    """Refused in a sentence, and nothing else; or it follows."""
    layer = sx.SparseLinear(COLS, ROWS, sparsity=0.7)
    try:
        optimizer = TABLE["made"](kind, list(layer.parameters()))
    except Exception:
        return "not made"
    reason = refusal(nn.Sequential(layer), optimizer)
    if reason is None:
        assert_follows(lambda parameters: TABLE["made"](kind, parameters))
        return "right"
    assert f"got {type(optimizer).__name__}: " in reason
    assert "trust_optimizer=True" in reason
    return "refused"


def refusal(model: nn.Module, optimizer: Any) -> str | None:
    """Why a Sparsifier does not take the optimizer; None: it does."""
    try:
        sx.Sparsifier(model, optimizer, sx.SET(), total_steps=10)
    except ValueError as error:
        return str(error)
    return None
