"""Watches the dense weight gradient, for growth: exactly the passes whose gradient the optimizer step uses.

A backward pass through a watched layer reports its output gradient dy and input x. They count once autograd accumulates the
weight's gradient: `torch.autograd.grad` with respect to inputs never does that, and activation checkpointing does it once.
Gradients that are discarded (`zero_grad` before the optimizer steps) are forgotten. Passes after the optimizer's step are
ignored.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch.autograd import Variable

from .boundary.library import define
from .product import Conv2d, Product

Pair = tuple[torch.Tensor, torch.Tensor]


class Sink(Protocol):
    """Receives the dense gradient of accumulated passes, and keeps what growth needs."""

    def add_(self, product: Product, pairs: list[Pair]) -> None:
        """Called at every accumulation into `weight.grad`: its dense gradient is the sum of dy^T x over the pairs (dy, x)."""

    def clear_(self) -> None:
        """Called when all gradients so far were discarded."""

    def pattern_changed_(self) -> None:
        """Called when the layer's pattern has changed."""

    def is_finite(self) -> bool:
        """Whether a gradient was kept and contained no Inf or NaN."""

    def kept(self) -> Any:
        """The `grow` argument for `Pattern.regrown`."""


_handles = itertools.count(1 << 40)  # the size of no other tensor
WATCHES: weakref.WeakValueDictionary[int, Watch] = weakref.WeakValueDictionary()


def new_handle() -> int:
    """A number that identifies a layer, unique in this process."""
    return next(_handles)


class Watch:
    """Watches one weight's gradient until `stop`.

    Attributes:
        passes: number of accumulations so far, without discarded ones.
        missed: whether a gradient came that it could not see: its forward pass came before the watch, or the optimizer's step
            before it.
        sink: receives their gradients; None: they are only counted.
        token: of the forward passes that began under this watch; None: all count.
    """

    def __init__(self, handle: int, weight: torch.nn.Parameter, product: Product, sink: Sink | None) -> None:
        self.passes = 0
        self.missed = False
        self.sink = sink
        self.token: torch.Tensor | None = None
        self._product = product
        self._closed = False
        self._weight = weakref.ref(weight)
        # Of weight.grad right after the last accumulation: its version counter, and whether it had a non-zero.
        self._version, self._any = 0, torch.ones((), dtype=torch.bool, device="cpu")
        # By backward call: calls nest under reentrant activation checkpointing.
        self._pending: dict[int, list[Pair]] = {}
        self._hook = _hooked(weight, self._accumulated)
        self._handle = handle
        WATCHES[handle] = self

    def is_on(self, weight: torch.nn.Parameter | None) -> bool:
        """Whether this is the weight that it watches."""
        return weight is not None and self._weight() is weight

    def stop(self) -> None:
        """Ends the watch; `passes` and `sink` stay."""
        self._hook.remove()
        self._pending.clear()
        WATCHES.pop(self._handle, None)

    def close(self) -> None:
        """To be called when the optimizer has stepped: later passes do not belong to its gradient."""
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
            self.missed = True
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
        # Clipping, unscaling and DDP also write to it: only a gradient that has become all zeros was discarded.
        if grad is None or (grad._version != self._version and bool(self._any) and not grad.any()):
            self.passes = 0
            if self.sink is not None:
                self.sink.clear_()


def _hooked(weight: torch.nn.Parameter, hook: Callable[[torch.Tensor], None]) -> Any:
    """Registers a hook on the weight's accumulations. The weight may be frozen for a moment, as a GAN's discriminator is."""
    if weight.requires_grad:
        return weight.register_post_accumulate_grad_hook(hook)
    weight.requires_grad_(True)
    try:
        return weight.register_post_accumulate_grad_hook(hook)
    finally:
        weight.requires_grad_(False)


def observe(handle: int, token: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> None:
    """Reports a backward pass with output gradient dy and input x to the watch with this handle, if there is one.

    Args:
        token: int64 [1], the layer's. Compiled code writes it, so that the compiler cannot remove the call as dead code.
    """
    if torch.compiler.is_compiling():
        observe_dense_grad_(token, handle, dy, x)
    elif (watch := WATCHES.get(handle)) is not None and (watch.token is None or watch.token is token):
        watch.passed(dy, x)


def observe_matrix(handle: int, product: Any, matrix: torch.Tensor) -> None:
    """Reports to this watch, if there is one, what gradient the written-out matrix [rows, cols] gets in later passes."""
    matrix.register_hook(lambda gradient: _observe_gradient(handle, product, gradient.detach()))


def _observe_gradient(handle: int, product: Any, gradient: torch.Tensor) -> None:
    if (watch := WATCHES.get(handle)) is not None:
        watch.passed(*pair_of(product, gradient))


def pair_of(product: Any, gradient: torch.Tensor) -> Pair:
    """(dy, x) whose dense gradient dy^T x is this matrix [rows, cols]."""
    if not isinstance(product, Conv2d):
        return torch.eye(product.rows, dtype=gradient.dtype, device=gradient.device), gradient
    # An image for each row of a group: what the kernel sees of it, at one pixel, is that row of every group.
    groups, images = product.groups, product.rows // product.groups
    x, pixel = images_seen_once(product, gradient.view(groups, images, -1).transpose(0, 1))
    dy = gradient.new_zeros(images, groups, images, *product.out_size("pair_of", *x.shape[2:]))
    dy[..., pixel[0], pixel[1]] = torch.eye(images, dtype=gradient.dtype, device=gradient.device)[:, None]
    return dy.flatten(1, 2), x


def images_seen_once(product: Conv2d, seen: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Images x [images, channels, height, width], and the pixel of y at which the kernel sees `seen` [images, groups, cols].

    It is the first pixel whose window reaches no padding.
    """
    pixel, window = [], []
    for kernel, stride, padding, dilation in zip(*product.window[:4], strict=True):
        pixel.append(-(-padding // stride))
        first = pixel[-1] * stride - padding
        window.append(slice(first, first + dilation * (kernel - 1) + 1, dilation))
    x = seen.new_zeros(seen.shape[0], product.groups * product.channels, *(part.stop for part in window))
    x[:, :, window[0], window[1]] = seen.reshape(seen.shape[0], -1, *product.kernel_size)
    return x, (pixel[0], pixel[1])


@define("observe_dense_grad_(Tensor(a!) token, SymInt handle, Tensor dy, Tensor x) -> ()")
def observe_dense_grad_(token: torch.Tensor, handle: int, dy: torch.Tensor, x: torch.Tensor) -> None:
    """`observe` for compiled code. Adds 1 to token. The watch gets copies, as compiled code may reuse dy's and x's memory."""
    token += 1
    if (watch := WATCHES.get(handle)) is not None:
        watch.passed(dy.clone(), x.clone())


@observe_dense_grad_.fake
def _(token: Any, handle: int, dy: Any, x: Any) -> None:
    return None


class GradientTotal:
    """A sink that keeps the dense gradient, summed over the accumulations.

    Attributes:
        total: [rows, cols]; float64 for float64 weights, otherwise float32.
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
