"""`follow_`: how compiled code notices that a pattern's buffers were written in place, as by DDP's broadcast.

What kernels read is derived from the buffers. Eager code compares version counters in front of every product. The guards of
`torch.compile` do not see these counters, so there the comparison is an operator in the graph. It declares that it writes the
operands: so nothing that reads them is moved in front of it, and backward passes get what it has left. Inductor lets it write
in place; the backend "aot_eager" copies the operands around it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .boundary.library import define

OTHER_RULE = (
    "expected the rule that chose the positions of a dense weight, as compiled code and CUDA kernels know it, {}, which was "
    "written in place; call the layer's sync() after such a write"
)


class Follower(Protocol):
    """A layer."""

    def follow(self, operands: Sequence[torch.Tensor]) -> None:
        """Brings these operands in step with the layer's buffers; in compiled code they may be copies of its own."""


FOLLOWERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # {handle: Follower}


# A replayed CUDA graph would not compare: torch.compile keeps the operator out of those that it captures.
@define("follow_(Tensor[] buffers, Tensor(a!)[] operands, int handle) -> ()", tags=("cudagraph_unsafe",))
def follow_(buffers: Sequence[torch.Tensor], operands: Sequence[torch.Tensor], handle: int) -> None:
    """Brings the operands in step with the buffers of the layer with this handle. Without one, does nothing."""
    if (layer := FOLLOWERS.get(handle)) is not None:
        layer.follow(operands)


@follow_.fake
def _(buffers: Any, operands: Any, handle: int) -> None:
    return None
