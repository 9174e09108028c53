"""Signs that a dense model's weights were trained or loaded, and are worth keeping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# More writes in place than any initialisation makes: truncated normal values take eight.
MANY_WRITES = 20


def sign_of_training(model: nn.Module, layers: Iterable[Any]) -> str | None:
    """What tells that the model, or one of these layers, was trained or loaded; None: nothing does.

    Only what a fresh model never has counts, so weights that were loaded into a model without normalization, or trained by
    another process, are not recognised.
    """
    for layer in layers:
        if layer.weight.grad is not None:
            return "a layer's weight has a gradient"
        if getattr(layer.weight, "_is_hf_initialized", False):  # transformers marks what from_pretrained loads
            return "from_pretrained has loaded them"
        if not layer.weight.is_inference() and layer.weight._version > MANY_WRITES:
            return f"a layer's weight was written {layer.weight._version} times"
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None and _counted(module.num_batches_tracked):
            return "a BatchNorm has seen batches"
        if "Norm" in type(module).__name__ and _varies(module):
            return f"the weights of a {type(module).__name__} differ from each other"
    return None


def _counted(batches: torch.Tensor) -> bool:
    return not batches.is_meta and bool(batches > 0)


def _varies(norm: nn.Module) -> bool:
    """Whether a normalization's parameters, all 1 and all 0 at first, have become different from each other, every one."""
    parameters = [p.detach() for p in norm.parameters(recurse=False)]
    return bool(parameters) and all(
        p.dim() == 1 and p.numel() > 1 and not p.is_meta and bool((p != p[0]).any()) for p in parameters
    )
