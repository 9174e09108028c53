"""What an optimizer keeps of each parameter: found by a step of it on the device "meta", without memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_ext.memory import bytes_of
from sparse_ext.train.optimizers.found import find
from sparse_ext.train.optimizers.twin import twin_of
from sparse_ext.train.optimizers.wrappers import without_delegates

Kind = tuple[torch.Size, torch.dtype]


class State(NamedTuple):
    """Bytes that an optimizer keeps: of each parameter of such a shape and dtype; and once for all of them."""

    each: dict[Kind, int]
    common: int


Make = Callable[[list[torch.nn.Parameter]], Any]

# {name: how it is made}: the classes of torch.optim by their names in small letters, with their default options.
OPTIMIZERS: dict[str, Make] = {
    name.lower(): kind
    for name, kind in sorted(vars(torch.optim).items())
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
OPTIMIZERS["sgd-momentum"] = partial(torch.optim.SGD, momentum=0.9)

# How a step is computed, which on "meta" cannot be chosen; what is kept is the same.
_PLAINLY = {"fused": None, "foreach": None, "capturable": False}


def made_on_meta(optimizer: Any, parameters: Sequence[torch.nn.Parameter]) -> Any:
    """The optimizer over these parameters on "meta".

    Args:
        optimizer: a name in OPTIMIZERS; a class, or a function of the parameters; or an instance, whose first group's options
            count.

    Raises:
        TypeError: it is of another type.
        ValueError: the name is unknown, or the optimizer does not take the parameters.
    """
    make = _maker(optimizer)
    try:
        return make(list(parameters))
    except Exception as error:  # whatever a class may raise
        raise ValueError(
            f"estimate: expected an optimizer that takes the model's parameters, got {called(optimizer)}, which says: {error}"
        ) from error


def _maker(optimizer: Any) -> Make:
    if isinstance(optimizer, str):
        if optimizer.lower() not in OPTIMIZERS:
            known = ", ".join(map(repr, OPTIMIZERS))
            raise ValueError(f"estimate: expected optimizer to be one of {known}, got {optimizer!r}")
        return OPTIMIZERS[optimizer.lower()]
    if hasattr(optimizer, "param_groups"):
        inner = without_delegates(optimizer)
        group = inner.param_groups[0]
        plainly = {name: value for name, value in _PLAINLY.items() if name in group}
        return lambda parameters: twin_of(inner, {**group, **plainly}, parameters)
    if callable(optimizer):
        return optimizer
    raise TypeError(f"estimate: expected optimizer as a name, a class or an instance, got {type(optimizer).__name__}")


def kind_of(parameter: torch.nn.Parameter) -> Kind:
    """What decides how much is kept of a parameter."""
    return parameter.shape, parameter.dtype


def called(optimizer: Any) -> str:
    """The optimizer's name."""
    if isinstance(optimizer, str):
        return optimizer
    kind = optimizer.func if isinstance(optimizer, partial) else optimizer
    return str(getattr(kind, "__name__", type(kind).__name__))


def state_of(optimizer: Any, parameters: Sequence[torch.nn.Parameter]) -> tuple[State | None, str | None]:
    """(what the optimizer keeps, None), or (None, why that is unknown).

    One parameter of each shape and dtype stands for all of them; its optimizer makes a step on "meta".
    """
    alike = list({kind_of(one): one for one in parameters}.values())
    made = made_on_meta(optimizer, alike)
    for parameter in alike:
        parameter.grad = torch.empty_like(parameter)
    try:
        with _AnyNumber():
            made.step()
    except Exception as error:  # whatever a step may raise that needs values
        return None, f"{called(optimizer)} makes no step without values ({type(error).__name__}: {error})"
    finally:
        for parameter in alike:
            parameter.grad = None
    found = find([made], alike)
    each = {kind_of(p): bytes_of(one.tensor for one in found if one.owner is p) for p in alike}
    return State(each, bytes_of(one.tensor for one in found if one.owner is None)), None


class _AnyNumber(TorchDispatchMode):
    """Who reads a number from a tensor on "meta" gets 1: what an optimizer keeps does not depend on it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0
        return function(*args, **kwargs or {})
