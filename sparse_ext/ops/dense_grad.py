"""The dense weight gradient as it is accumulated into `weight.grad`: what growth sees, and nothing else.

A backward pass through a watched layer reports its output gradient and input. They count only if and when autograd accumulates
the weight's gradient. `torch.autograd.grad` with respect to inputs never does; recomputation by activation checkpointing does
it once. What is thrown away afterwards (`zero_grad` before the optimizer has stepped) is forgotten. What comes after the
optimizer's step does not belong to that step.
"""

from __future__ import annotations

import itertools
import weakref
from functools import partial
from typing import Any, Protocol

import torch
from torch.autograd import Variable

from .boundary.library import define
from .product import Product

Pair = tuple[torch.Tensor, torch.Tensor]


class Sink(Protocol):
    """Where the gradient of accumulated passes goes."""

    def add_(self, product: Product, pairs: list[Pair]) -> None:
        """One accumulation into `weight.grad`, the sum over these pairs (dy, x)."""

    def clear_(self) -> None:
        """All of it was thrown away."""

    def pattern_changed_(self) -> None:
        """The layer has another pattern now."""

    def is_finite(self) -> bool:
        """Something was kept, and no Inf or NaN has come."""

    def kept(self) -> Any:
        """What `Pattern.regrown` takes to grow by this gradient."""


_handles = itertools.count(1)
WATCHES: weakref.WeakValueDictionary[int, Watch] = weakref.WeakValueDictionary()


def new_handle() -> int:
    """For a layer: never used before in this process."""
    return next(_handles)


class Watch:
    """Follows one weight's gradient from its construction to `stop`.

    Attributes:
        passes: how many accumulations count.
        sink: what gets their gradient; None: they are only counted.
    """

    def __init__(self, handle: int, weight: torch.nn.Parameter, product: Product, sink: Sink | None) -> None:
        self.passes = 0
        self.sink = sink
        self._product = product
        self._closed = False
        self._weight = weakref.ref(weight)
        # weight.grad right after the last accumulation that counted: how often it was written, and whether it had a non-zero.
        self._version, self._any = 0, torch.ones((), dtype=torch.bool)
        # By the number of the backward call: calls nest where activation checkpointing is reentrant.
        self._pending: dict[int, list[Pair]] = {}
        self._hook = weight.register_post_accumulate_grad_hook(self._accumulated)
        self._handle = handle
        WATCHES[handle] = self

    def stop(self) -> None:
        """Ends the watch; `passes` and `sink` stay."""
        self._hook.remove()
        self._pending.clear()
        WATCHES.pop(self._handle, None)

    def close(self) -> None:
        """The optimizer has stepped: what counted until now is its gradient, and nothing more counts."""
        if not self._closed:
            self._forget_if_discarded()
        self._closed = True

    def passed(self, dy: torch.Tensor, x: torch.Tensor) -> None:
        """A backward pass has come through the layer; it counts once the weight's gradient is accumulated."""
        if self._closed:
            return
        call = torch._C._current_graph_task_id()
        if call not in self._pending:
            self._forget_if_discarded()
            self._pending[call] = []
            # autograd.grad with respect to inputs ends without an accumulation.
            Variable._execution_engine.queue_callback(partial(self._end, call))
        self._pending[call].append((dy, x))

    def _end(self, call: int) -> None:
        self._pending.pop(call, None)

    @torch.no_grad()
    def _accumulated(self, weight: torch.Tensor) -> None:
        pairs = self._pending.pop(torch._C._current_graph_task_id(), None)
        if pairs is None:
            return
        self.passes += 1
        if self.sink is not None:
            self.sink.add_(self._product, pairs)
        assert weight.grad is not None
        self._version, self._any = weight.grad._version, weight.grad.any()  # waits for no device

    def _forget_if_discarded(self) -> None:
        """Starts anew if `weight.grad` no longer holds what was accumulated."""
        if not self.passes:
            return
        weight = self._weight()
        grad = None if weight is None else weight.grad
        # Clipping, unscaling and DDP write to it, too: only zeros that were none before say that it was thrown away.
        if grad is None or (grad._version != self._version and bool(self._any) and not grad.any()):
            self.passes = 0
            if self.sink is not None:
                self.sink.clear_()


def observe(handle: int, token: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> None:
    """Tells the watch with this handle, if there is one, of a backward pass with output gradient dy and input x.

    token: int64 [1], the layer's own; compiled code writes to it, so that no compiler leaves the call out.
    """
    if torch.compiler.is_compiling():
        observe_dense_grad_(token, handle, dy, x)
    elif (watch := WATCHES.get(handle)) is not None:
        watch.passed(dy, x)


@define("observe_dense_grad_(Tensor(a!) token, int handle, Tensor dy, Tensor x) -> ()")
def observe_dense_grad_(token: torch.Tensor, handle: int, dy: torch.Tensor, x: torch.Tensor) -> None:
    """`observe` in compiled code, which may use the memory of dy and x again: the watch gets copies. token [1] += 1."""
    token += 1
    if (watch := WATCHES.get(handle)) is not None:
        watch.passed(dy.clone(), x.clone())


@observe_dense_grad_.fake
def _(token: Any, handle: int, dy: Any, x: Any) -> None:
    return None


class GradientTotal:
    """A sink that keeps the dense gradient, summed over the accumulations.

    Attributes:
        total: [rows, cols] in the dtype of sums (float32; float64 for float64).
    """

    def __init__(self, weight: torch.Tensor, product: Product) -> None:
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.total = torch.zeros(product.rows, product.cols, dtype=dtype, device=weight.device)

    def add_(self, product: Product, pairs: list[Pair]) -> None:
        for rows, tile in product.dense_grad_tiles(pairs, self.total.dtype):
            self.total[rows.start : rows.stop] += tile

    def clear_(self) -> None:
        self.total.zero_()

    def pattern_changed_(self) -> None:
        pass

    def kept(self) -> torch.Tensor:
        return self.total

    def is_finite(self) -> bool:
        return bool(self.total.isfinite().all())
