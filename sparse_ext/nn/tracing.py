"""torch.fx: a sparse layer is a leaf of every traced program, as layers of `torch.nn` are."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def as_leaf(layer: nn.Module, x: Any) -> Proxy:
    """The call of the layer as one node of the program, whatever the tracer takes for a leaf: its state stays its own.

    Args:
        layer: whose forward pass is being traced.
        x: the Proxy in place of its input.

    Raises:
        ValueError: the layer is itself what is being traced.
    """
    if path := x.tracer.path_of_module(layer):
        return x.tracer.create_proxy("call_module", path, (x,), {})
    raise ValueError(
        f"torch.fx: expected a model that contains layers, got a bare {type(layer).__name__}; trace nn.Sequential(layer)"
    )
