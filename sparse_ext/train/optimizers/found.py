"""Finds the tensors that an optimizer keeps of each parameter, wherever it keeps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from .wrappers import parameters_of, with_inner

_NO_STATE = ("params", "defaults")


class Found(NamedTuple):
    """A tensor of an optimizer.

    Attributes:
        path: where it is: the optimizer's class, then attributes, keys and indices.
        owner: the parameter to which it belongs; None: nothing says to which.
    """

    path: tuple[str, ...]
    tensor: torch.Tensor
    owner: torch.Tensor | None

    @property
    def name(self) -> str:
        """As messages call it: without the optimizer's class, and without `state`."""
        return ".".join(self.path[2:] if self.path[1] == "state" else self.path[1:])


def find(optimizers: Iterable[Any], weights: Iterable[torch.Tensor]) -> list[Found]:
    """The tensors that belong to these weights, or to nobody, in the optimizers and all that these hold.

    A tensor belongs to a parameter if it lies under it in a dict, as in `optimizer.state`, or at its place in a list as long as
    the list of parameters. Two tensors with the same memory count once; the parameters themselves do not count.
    """
    wanted = {id(weight): weight for weight in weights}
    seen = {_memory(weight) for weight in wanted.values()}
    found = []
    for optimizer in dict.fromkeys(one for outer in optimizers for one in with_inner(outer)):
        search = _Search(parameters_of(optimizer), wanted)
        for one in search.within(vars(optimizer), (type(optimizer).__name__,), None):
            if (memory := _memory(one.tensor)) not in seen:
                seen.add(memory)
                found.append(one)
    return found


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """What two tensors have in common only if they are the same memory."""
    has_memory = tensor.numel() and not tensor.is_meta and not _is_odd(tensor)
    return (tensor.data_ptr(), tensor.numel()) if has_memory else (id(tensor), -1)


def _is_odd(tensor: torch.Tensor) -> bool:
    """Whether it is of a class of its own, such as quantized state: it need not have memory, or take an index."""
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter)


class _Search:
    """A search in one optimizer, with these parameters, for what belongs to the wanted ones."""

    def __init__(self, parameters: list[torch.Tensor], wanted: Mapping[int, torch.Tensor]) -> None:
        self.parameters, self.wanted = parameters, wanted
        self.known = {id(p) for p in parameters} | wanted.keys()
        self.visited: set[int] = set()  # containers may hold each other

    def within(self, value: Any, path: tuple[str, ...], owner: torch.Tensor | None) -> Iterator[Found]:
        if isinstance(value, torch.Tensor):
            if id(value) not in self.known:
                yield Found(path, value, owner)
        elif id(value) in self.visited:
            return
        elif isinstance(value, Mapping):
            self.visited.add(id(value))
            for key, one in value.items():
                number = key if isinstance(key, int) else id(key)
                if number in self.wanted:
                    yield from self.within(one, path, self.wanted[number])
                elif number not in self.known and not (isinstance(key, str) and key in _NO_STATE):
                    yield from self.within(one, (*path, str(key)), owner)
        elif isinstance(value, list | tuple | deque | set):
            self.visited.add(id(value))
            parallel = owner is None and self._is_parallel(value)
            for number, one in enumerate(value):
                if not parallel:
                    yield from self.within(one, (*path, str(number)), owner)
                elif id(self.parameters[number]) in self.wanted:
                    yield from self.within(one, path, self.wanted[id(self.parameters[number])])

    def _is_parallel(self, values: Any) -> bool:
        """Whether it holds a tensor of each parameter's shape, in the order of the parameters."""
        return len(values) == len(self.parameters) and all(
            isinstance(one, torch.Tensor) and one.shape == p.shape for one, p in zip(values, self.parameters, strict=True)
        )


def obstacle(found: Iterable[Found], weights: Iterable[torch.Tensor]) -> tuple[str, str] | None:
    """(class of the optimizer, sentence) of a tensor that cannot be moved along with the weights; None: all can."""
    shapes = {weight.shape for weight in weights}
    for one in found:
        tensor, kind = one.tensor, one.path[0]
        if tensor.numel() == 1:  # a scalar, also of shape (1,)
            continue
        shape = tuple(tensor.shape)
        if one.owner is None and tensor.shape in shapes:
            return kind, f"expected tensors of shape {shape}, a weight's, under that weight in `state`, got {one.name!r}"
        if one.owner is not None and tensor.shape != one.owner.shape:
            expected = tuple(one.owner.shape)
            return kind, f"expected optimizer state of the weight's shape {expected}, got {one.name!r} of shape {shape}"
        if one.owner is not None and _is_odd(tensor):
            return kind, f"expected optimizer state in ordinary tensors, got {one.name!r} as {type(tensor).__name__}"
    return None
