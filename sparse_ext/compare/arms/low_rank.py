"""Layers of low rank: the product of two thin ones in the place of a dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def thin_(model: nn.Module, names: Iterable[str], share: float) -> nn.Module:
    """Replaces these layers by two thin ones that together have this share of their weights, in place.

    A weight [rows, cols] becomes one [rank, cols] and one [rows, rank], rank = share rows cols / (rows + cols), rounded, at
    least 1. They begin as the best approximation of the dense weight, its largest singular values U S V, of which each gets a
    half: U sqrt(S) and sqrt(S) V (Khodak et al. 2021, https://arxiv.org/abs/2105.01029). Where the dense weight is 0, the
    first is random and the second 0. A convolution becomes one of the same window to `rank` channels, and one of 1 x 1 pixels.
    The bias stays.

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
    weight = layer.weight.flatten(1)
    rank = rank_of(len(weight), weight[0].numel(), share)
    first, second = THIN[type(layer)](layer, rank, {"device": weight.device, "dtype": weight.dtype})
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    if s[0] > 0:
        half = s[:rank].sqrt()
        first.weight.copy_((half[:, None] * v[:rank]).view_as(first.weight))  # type: ignore[operator]
        second.weight.copy_((u[:, :rank] * half).view_as(second.weight))  # type: ignore[operator]
    else:
        nn.init.zeros_(second.weight)  # type: ignore[arg-type]
    if layer.bias is not None:
        second.bias.copy_(layer.bias)  # type: ignore[operator]
    return nn.Sequential(first, second)
