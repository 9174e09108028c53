"""What a new sparse layer is asked for, checked before anything is allocated: sizes, shares, dtype; and how it is stored."""

from __future__ import annotations

import operator
from typing import Any

import torch

from sparse_ext.ops import FLOATING, Choice, Layout, Product, layout_named


def whole_number(value: Any) -> int | None:
    """The value as an int, be it numpy's, symbolic, or an integer tensor with one element; None for all else and for bools."""
    if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: of a tensor on "meta"
        return None


def check_size(op: str, name: str, value: Any, least: int) -> int:
    """The size as an int; ValueError unless it is a whole number of at least `least`."""
    size = whole_number(value)
    if size is None or size < least:
        raise ValueError(f"{op}: expected {name} to be a whole number of at least {least}, got {value!r}")
    return size


def check_share(name: str, value: Any) -> float:
    """The value as a float, be it numpy's or a tensor with one element; ValueError if it is no number."""
    try:
        if not isinstance(value, str | bool):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"expected {name} to be a number, got {value!r}")


def check_sparsity(sparsity: Any) -> float:
    """The sparsity as a float; ValueError outside [0, 1)."""
    share = check_share("sparsity", sparsity)
    if not 0.0 <= share < 1.0:
        hint = f"; {share:g} % zeros are {share / 100:g}" if 1.0 < share < 100.0 else ""
        raise ValueError(f"expected sparsity in [0, 1), got {sparsity}{hint}")
    return share


def check_dtype(op: str, dtype: Any, device: torch.device, layout: type[Layout]) -> None:
    """TypeError unless a new weight of this layout may have this dtype on this device."""
    if dtype not in FLOATING:
        known = ", ".join(sorted(str(one).removeprefix("torch.") for one in FLOATING))
        raise TypeError(f"{op}: expected dtype to be one of {known}, got {dtype}")
    if why := layout.refuses(dtype, device):
        raise TypeError(f"{op}: {why}")


def storage(layout: str, product: Product, sparsity: float | None, dtype: torch.dtype, device: torch.device) -> Choice:
    """(chosen, reason): the layout of a new layer for which this one was asked. Sparsity None: the layout's default.

    ValueError if there is no such layout, or sparsity is none.
    """
    kind = layout_named(layout)
    density = 1.0 - check_sparsity(kind.pattern.SPARSITY if sparsity is None else sparsity)
    return kind.storage(product, round(density * product.rows * product.cols), dtype, device)
