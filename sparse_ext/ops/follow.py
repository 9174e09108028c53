"""`follow_`: how compiled code notices that a pattern's buffers were written in place, as by DDP's broadcast.

What kernels read is derived from the buffers. Eager code compares them with those it knows, and their version counters, in
front of every product. The guards of `torch.compile` do not see these counters, so there the comparison is an operator in the
graph. It declares that it writes the operands: so nothing that reads them is moved in front of it, and backward passes get
what it has left. Inductor lets it write in place; the backend "aot_eager" copies the operands around it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .boundary.library import define

OTHER_RULE = (
    "expected the rule that chose the positions of a dense weight, as compiled code and CUDA kernels know it, {}, which was "
    "written in place; call the layer's sync() after such a write"
)


OTHER_SHAPES = (
    "expected buffers of the shapes that this program was compiled for, got {}; call the layer's sync(), after which it is "
    "compiled again"
)


class Follower(Protocol):
    """A layer."""

    def follow(self, buffers: Sequence[torch.Tensor], operands: Sequence[torch.Tensor]) -> None:
        """Brings these operands in step with these buffers; in compiled code they may be copies of the layer's own."""


FOLLOWERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # {handle: Follower}


# A replayed CUDA graph would not compare: torch.compile keeps the operator out of those that it captures.
@define("follow_(Tensor[] buffers, Tensor(a!)[] operands, SymInt handle) -> ()", tags=("cudagraph_unsafe",))
def follow_(buffers: Sequence[torch.Tensor], operands: Sequence[torch.Tensor], handle: int) -> None:
    """Brings the operands in step with the buffers, for the layer with this handle. Without one, does nothing."""
    if (layer := FOLLOWERS.get(handle)) is not None:
        layer.follow(buffers, operands)


@follow_.fake
def _(buffers: Any, operands: Any, handle: int) -> None:
    return None


def is_batched(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether torch.vmap has one of them for every element of its batch."""
    return any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)


def is_fake(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether a program is being traced with tensors that have no values."""
    return any(isinstance(tensor, FakeTensor) for tensor in tensors)
