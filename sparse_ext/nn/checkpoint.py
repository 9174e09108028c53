"""What a layer takes from a state dict: its own entries, those of another capacity, or a dense weight."""

from __future__ import annotations

from typing import Any

import torch

from sparse_ext.ops import Pattern, layout_named


def pruned(dense: torch.Tensor, pattern: Pattern, layout: str, nnz: int) -> dict[str, torch.Tensor]:
    """A dense weight's largest magnitudes, as a layer with this pattern and nnz stores them."""
    # By way of a dtype that every device's kernels have and that holds every value of the checkpoint's.
    wide = dense if dense.dtype == torch.float64 else dense.float()
    fresh = pattern.largest(wide, nnz)
    weight = layout_named(layout).pack(wide, fresh).to(dense.dtype)
    return {"weight": weight, **dict(zip(fresh.STORED, fresh.stored, strict=True))}


def converted(
    state_dict: dict[str, Any], prefix: str, dense: torch.Tensor | None, pattern: Pattern, layout: str, nnz: int
) -> dict[str, Any]:
    """The state dict with a layer's entries as it stores them; ValueError, which names the entry, if they cannot be.

    Args:
        prefix: of the layer's entries. dense: the stored weight as a matrix, if it is a dense one.
        pattern, layout, nnz: the layer's.
    """
    shape = (pattern.rows, pattern.cols)
    stored = {name: state_dict[prefix + name] for name in pattern.STORED if prefix + name in state_dict}
    if dense is not None:
        if dense.shape != shape:
            raise ValueError(f"{prefix}weight: expected a dense weight of shape {shape}, got {tuple(dense.shape)}")
        own = pruned(dense, pattern, layout, nnz)
    elif len(stored) < len(pattern.STORED):
        return state_dict  # missing keys: the caller says so
    else:
        own = pattern.adopted(prefix, state_dict.get(prefix + "weight"), stored)
    return {**state_dict, **{prefix + name: tensor for name, tensor in own.items()}}
