"""The calls that a training step makes of a model's modules, kept so that each can be run again on its own."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass
class Call:
    """One call of a module, with what it was given and the gradients that came back.

    Attributes:
        name: the module's.
        inputs: (args, kwargs). Tensors are leaves that need a gradient where those of the step did.
        autocast: how the step ran it.
        gradients: {place among the output's tensors: gradient}, of those that got one.
        writes: whether it changes its inputs in place.
    """

    name: str
    module: nn.Module
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    autocast: torch.autocast
    gradients: dict[int, Tensor] = field(default_factory=dict)
    writes: bool = False

    def forward(self) -> list[Tensor]:
        """Once more, and records what a backward pass needs; the tensors of the output."""
        args, kwargs = tree_map(_cloned, self.inputs) if self.writes else self.inputs
        with torch.enable_grad(), self.autocast:
            return _tensors(self.module(*args, **kwargs))

    def backward(self) -> Callable[[], object] | None:
        """What runs the backward pass once more, any number of times, and leaves `.grad` alone; None: there is none."""
        output = self.forward()
        outputs = [output[place] for place in self.gradients]
        needed = [one for one in (*_tensors(self.inputs), *self.module.parameters()) if one.requires_grad]
        gradients = list(self.gradients.values())
        if not outputs or not needed:
            return None
        return lambda: torch.autograd.grad(outputs, needed, gradients, retain_graph=True, allow_unused=True)


def record(model: nn.Module, step: Callable[[], object], names: Container[str] | None = None) -> list[Call]:
    """The calls of one step, forward and backward, in their order.

    Of calls within each other only the outermost is kept.

    Args:
        names: of the modules; None: all within the model.
    """
    calls: list[Call] = []
    open_names: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if name and (names is None or name in names):
            enter, leave = _hooks(name, calls, open_names)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _hooks(name: str, calls: list[Call], open_names: list[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Before and after a call of the module."""
    before: list[int] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        open_names.append(name)
        if len(open_names) == 1:
            inputs = tree_map(_leaf, (args, kwargs))
            before[:] = [one._version for one in _tensors(inputs)]
            calls.append(Call(name, module, inputs, _autocast(module, inputs)))

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        open_names.pop()
        if open_names:
            return
        call = calls[-1]
        call.writes = before != [one._version for one in _tensors(call.inputs)]
        for place, tensor in enumerate(_tensors(output)):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient, place=place: call.gradients.update({place: gradient.detach()}))

    return enter, leave


def _autocast(module: nn.Module, inputs: Any) -> torch.autocast:
    """As it is at this moment, on the module's device."""
    tensors = [*_tensors(inputs), *module.parameters()]
    device = tensors[0].device.type if tensors else "cpu"
    return torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def _leaf(one: Any) -> Any:
    return one.detach().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one


def _cloned(one: Any) -> Any:
    return one.clone() if isinstance(one, Tensor) else one
