"""`Undo`: a change of several layers happens as a whole, or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch

from sparse_ext.nn import SparseLayer


class Undo:
    """If the `with` block ends by an exception, of whatever kind, what was kept in it is put back, the last first.

    It holds a copy of each tensor that was kept until the block ends: of an update, as much memory again as the weights that
    change, their gradients and their optimizer state take.

    Example:
        with Undo() as undo:
            undo.keep_tensor(values)
            values.add_(1)
            may_raise()
    """

    def __init__(self) -> None:
        self._steps = ExitStack()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        steps = self._steps.pop_all()
        if kind is not None:
            steps.close()  # all of them, also if one raises

    def keep_attributes(self, *objects: Any) -> None:
        """Keeps which attributes the objects have, and what lies in those that are dicts and lists."""
        for one in objects:
            self._steps.callback(_attributes(one))

    def keep_tensor(self, tensor: torch.Tensor) -> None:
        """Keeps the tensor's memory and values; for one without memory of its own, nothing."""
        if not tensor.is_meta:
            self._steps.callback(_tensor(tensor))

    def keep_layer(self, layer: SparseLayer, values: bool = True) -> None:
        """Keeps the layer's layout, pattern and rule; values: also its weight and gradient."""
        self._steps.callback(layer.sync)  # the last: what kernels read follows from the buffers
        for buffer in layer.buffers(recurse=False):
            self.keep_tensor(buffer)
        if values:
            self._steps.callback(_gradient(layer.weight))
            if layer.weight.grad is not None:
                self.keep_tensor(layer.weight.grad)
            self.keep_tensor(layer.weight)
        self.keep_attributes(layer)


def _attributes(one: Any) -> Callable[[], None]:
    before = {name: (value, _contents(value)) for name, value in vars(one).items()}

    def restore() -> None:
        for value, contents in before.values():
            if isinstance(value, dict):
                value.clear()
                value.update(contents)
            elif isinstance(value, list):
                value[:] = contents
        vars(one).clear()
        vars(one).update({name: value for name, (value, _) in before.items()})

    return restore


def _contents(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list) else None


def _tensor(tensor: torch.Tensor) -> Callable[[], None]:
    data, values = tensor.data, tensor.detach().clone()

    def restore() -> None:
        if tensor.shape != data.shape and isinstance(tensor, torch.nn.Parameter):
            # Via another dtype: otherwise autograd still expects the other length while a graph is alive.
            tensor.data = tensor.data.to(torch.bfloat16 if tensor.dtype != torch.bfloat16 else torch.float32)
        tensor.data = data
        with torch.no_grad():
            tensor.copy_(values)  # by itself, not by `data`: layers notice by its version counter

    return restore


def _gradient(weight: torch.nn.Parameter) -> Callable[[], None]:
    gradient = weight.grad

    def restore() -> None:
        weight.grad = gradient

    return restore
