"""The weight that a dense layer computes with, where pruning, a normalization or a parametrization stands between."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.sparse import SparseSemiStructuredTensor


@torch.no_grad()
def effective(dense: nn.Module, name: str) -> Any:
    """The dense layer's tensor of this name as its next forward pass would use it, detached; None stays None.

    That pass may advance buffers, as the power iteration of a spectral norm in training mode. Here copies advance, and the
    layer stays as it is.
    """
    if parametrize.is_parametrized(dense, name):
        chain: Any = dense.parametrizations[name]  # type: ignore[index]
        tensor = functional_call(chain, {key: buffer.clone() for key, buffer in chain.named_buffers()}, ())
    else:
        tensor = getattr(_after_hooks(dense, name), name)
    if isinstance(tensor, SparseSemiStructuredTensor):
        tensor = tensor.to_dense()
    return tensor if tensor is None else tensor.detach()


def _after_hooks(dense: nn.Module, name: str) -> nn.Module:
    """The layer, or one with the same parameters for which PyTorch's own hooks have computed the tensor of this name.

    What the layer's attribute holds is of the last forward pass.
    """
    hooks = [hook for hook in dense._forward_pre_hooks.values() if _computes(hook) == name]
    if not hooks:
        return dense
    other = nn.Module.__new__(type(dense))
    vars(other).update(vars(dense), _buffers={key: buffer.clone() for key, buffer in dense.named_buffers(recurse=False)})
    for hook in hooks:
        hook(other, ())
    return other


def _computes(hook: Any) -> str | None:
    """The name of the tensor that a forward pre-hook of PyTorch's computes; None for another hook."""
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name
    return hook.name if isinstance(hook, WeightNorm | SpectralNorm) else None
