"""Layers of low rank: the product of two thin ones in the place of a dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def thin_(model: nn.Module, names: Iterable[str], share: float) -> nn.Module:
    """Replaces these layers by two thin ones that together have this share of their weights, in place.

    A weight [rows, cols] becomes one [rank, cols] and one [rows, rank], rank = share rows cols / (rows + cols), rounded, at
    least 1. Both are random, such that outputs begin as large as the dense layer's: the first has values of variance 1 / cols,
    and the second of s^2 cols / rank, s^2 being the mean square of the dense weight. A convolution becomes one of the same
    window to `rank` channels, and one of 1 x 1 pixels. The bias stays.

    Args:
        names: of layers of the classes in THIN.
        share: in (0, 1].

    Returns:
        The model.

    Raises:
        ValueError: a layer is of another class, or a convolution of several groups.
    """
    twins = {name: _twin(name, model.get_submodule(name), share) for name in names}
    for name, twin in twins.items():
        model.set_submodule(name, twin)
    return model


def rank_of(rows: int, cols: int, share: float) -> int:
    """So that rank (rows + cols) is this share of rows cols."""
    return max(1, round(share * rows * cols / (rows + cols)))


def _linear(layer: nn.Linear, rank: int, like: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    has_bias = layer.bias is not None
    return nn.Linear(layer.in_features, rank, bias=False, **like), nn.Linear(rank, layer.out_features, has_bias, **like)


def _conv2d(layer: nn.Conv2d, rank: int, like: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    window: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **window, **like)  # type: ignore[arg-type]
    return first, nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None, **like)


THIN: dict[type[nn.Module], Callable[..., tuple[nn.Module, nn.Module]]] = {nn.Linear: _linear, nn.Conv2d: _conv2d}


@torch.no_grad()
def _twin(name: str, layer: Any, share: float) -> nn.Module:
    if type(layer) not in THIN or getattr(layer, "groups", 1) != 1:
        kinds = " or ".join(kind.__name__ for kind in THIN)
        raise ValueError(f"low rank: expected {name!r} to be {kinds} of one group, got {layer}")
    weight = layer.weight
    rows, cols = len(weight), weight[0].numel()
    rank = rank_of(rows, cols, share)
    first, second = THIN[type(layer)](layer, rank, {"device": weight.device, "dtype": weight.dtype})
    mean_square = float(weight.float().square().mean())
    nn.init.normal_(first.weight, std=1 / math.sqrt(cols))  # type: ignore[arg-type]
    nn.init.normal_(second.weight, std=math.sqrt(mean_square * cols / rank))  # type: ignore[arg-type]
    if layer.bias is not None:
        second.bias.copy_(layer.bias)  # type: ignore[operator]
    return nn.Sequential(first, second)
