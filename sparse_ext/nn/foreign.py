"""What PyTorch's own tools find in a sparse layer: torch.fx a leaf, and a parametrization of matrices a refusal."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.nn.utils.parametrize import is_parametrized

# What torch makes of a matrix row by row or as a whole, and what to do instead, by the classes of parametrizations and hooks.
_INSTEAD = {
    "spectral_norm": "use sparse_ext.utils.spectral_norm(layer)",
    "weight_norm": "use sparse_ext.utils.weight_norm(layer), or dim=None for one norm of all entries",
    "orthogonal": "leave the layer dense, or start from sparse_ext.utils.init_(layer, nn.init.orthogonal_)",
}
_CLASSES = {"SpectralNorm": "spectral_norm", "WeightNorm": "weight_norm", "Orthogonal": "orthogonal"}


def check_entrywise(layer: Any) -> None:
    """TypeError if the weight is computed by one of torch's norms of a matrix: they would take all entries for one vector."""
    found = list(layer.parametrizations["weight"]) if is_parametrized(layer, "weight") else []
    hooks = [hook for hook in layer._forward_pre_hooks.values() if getattr(hook, "name", None) == "weight"]
    for one in (*found, *hooks):
        name = _CLASSES.get(type(one).__name__.lstrip("_"))
        if name is not None and not (name == "weight_norm" and one.dim == -1):
            raise TypeError(
                f"{type(layer).__name__}: expected a parametrization that works entry by entry, got torch's {name}, "
                f"which reads the packed 1-D weight as one row; {_INSTEAD[name]}"
            )


def is_computed(layer: Any) -> bool:
    """Whether a forward pass takes for weight what is computed from other tensors: by a parametrization, pruning or a norm."""
    return "weight" not in layer._parameters


_SKIPS_PROXIES: set[Callable[..., Any]] = set()


def skips_proxies(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a forward hook, or one in front, as a part of the leaf: it does nothing while torch.fx traces."""

    @wraps(hook)
    def skipping(layer: nn.Module, args: tuple[Any, ...], last: Any) -> Any:
        values = (*args, *(last.values() if isinstance(last, dict) else (last,)))
        return None if any(isinstance(value, Proxy) for value in values) else hook(layer, args, last)

    _SKIPS_PROXIES.add(skipping)
    return skipping


def as_leaf(layer: nn.Module, x: Any) -> Proxy:
    """The call of the layer as one node of the program, whatever the tracer takes for a leaf: its state stays its own.

    Args:
        layer: whose forward pass is being traced.
        x: the Proxy in place of its input.

    Raises:
        ValueError: the layer is itself what is being traced, or has hooks, which would run twice.
    """
    path, name = x.tracer.path_of_module(layer), type(layer).__name__
    if not path:
        raise ValueError(f"torch.fx: expected a model that contains layers, got a bare {name}; trace nn.Sequential(layer)")
    if not _SKIPS_PROXIES.issuperset((*layer._forward_pre_hooks.values(), *layer._forward_hooks.values())):
        raise ValueError(
            f"torch.fx: expected {path!r} without hooks, which would run while tracing and in the program, got some; "
            f"make {name} a leaf of the tracer (is_leaf_module), or add the hooks afterwards"
        )
    return x.tracer.create_proxy("call_module", path, (x,), {})
