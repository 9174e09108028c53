"""`twin_of`: a second optimizer of the same class and options, on other parameters, to try out what it does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .wrappers import inner_optimizers, with_inner


def twin_of(optimizer: Any, group: Mapping[str, Any], parameters: list[torch.nn.Parameter]) -> Any:
    """An optimizer of the same class, over one group of these parameters, with this group's options, as on the first step.

    The class is called with the arguments that it names. They are taken from the group, or from attributes of the same names;
    what it wraps is made anew in the same way. The optimizer itself is only read.

    Raises:
        Exception: the class cannot be called so; whatever it raises.
    """
    kind, inner = type(optimizer), inner_optimizers(optimizer)
    options = _options(optimizer, group)
    if not inner:
        return _with_records(kind([_group(optimizer, group, parameters)], **options), optimizer)
    try:  # as Lookahead(optimizer, k=5)
        twin = _of_instance(kind, options, lambda: twin_of(inner[0], group, parameters))
    except Exception:  # as SAM(parameters, AdamW, rho=0.05, lr=1e-3)
        twin = _of_class(kind, inner[0], options, group, parameters)
    if (got := _kinds(twin)) != (expected := _kinds(optimizer)):
        raise TypeError(f"{kind.__name__} holds {expected[1:]}, and a new one {got[1:]}")
    return twin


def _of_instance(kind: type, options: dict[str, Any], make: Callable[[], Any]) -> Any:
    first = next(iter(inspect.signature(kind).parameters))
    return kind(make(), **{name: value for name, value in options.items() if name != first})


def _of_class(
    kind: type, inner: Any, options: dict[str, Any], group: Mapping[str, Any], parameters: list[torch.nn.Parameter]
) -> Any:
    arguments = list(inspect.signature(kind).parameters.values())[1:]
    missing = [one.name for one in arguments if _is_required(one) and one.name not in options]
    if any(one.kind is one.VAR_KEYWORD for one in arguments):
        options = {**_options(inner, group), **options}
    try:
        return kind(list(parameters), **dict.fromkeys(missing, type(inner)), **options)
    except Exception:  # as Wrapper(parameters, AdamW(parameters))
        return kind(list(parameters), **dict.fromkeys(missing, twin_of(inner, group, parameters)), **options)


def _kinds(optimizer: Any) -> list[str]:
    return [type(one).__name__ for one in with_inner(optimizer)]


def _is_required(argument: inspect.Parameter) -> bool:
    return argument.default is argument.empty and argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)


def _options(optimizer: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which its class makes such an optimizer, but for the parameters."""
    arguments = inspect.signature(type(optimizer)).parameters.values()
    named = [one.name for one in arguments if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    own = vars(optimizer)
    places = [own, {name.removeprefix("_"): value for name, value in own.items()}]
    # What is in a group is in force; but a group of a wrapper is that of the optimizer inside, which has options of its own.
    places.insert(len(places) if inner_optimizers(optimizer) else 0, dict(group))
    found = {}
    for name in named:
        values = [place[name] for place in places if name in place and name != "params" and _is_plain(place[name])]
        if values:
            found[name] = copy.deepcopy(values[0])
    if found.get("lr") == 0:  # of a schedule that warms up from nothing
        found["lr"] = _first_rate(optimizer, group)
    return found


def described(optimizer: Any) -> str:
    """The class, and all options beside the groups, of an optimizer and of what it wraps."""
    parts = []
    for one in with_inner(optimizer):
        plain = {name: value for name, value in vars(one).items() if _is_plain(value)}
        parts.append((type(one), plain, {name: vars(value) for name, value in _records(one).items()}))
    return repr(parts)


def _records(optimizer: Any) -> dict[str, Any]:
    """The attributes that are objects with nothing but options, as bitsandbytes keeps them."""
    held = {name: getattr(value, "__dict__", None) for name, value in vars(optimizer).items()}
    return {name: getattr(optimizer, name) for name, values in held.items() if values and all(map(_is_plain, values.values()))}


def _with_records(twin: Any, optimizer: Any) -> Any:
    """The twin, with copies of the optimizer's records."""
    for name, value in _records(optimizer).items():
        if name in vars(twin):
            setattr(twin, name, copy.copy(value))
    return twin


def _first_rate(optimizer: Any, group: Mapping[str, Any]) -> float:
    """A learning rate that changes weights."""
    rates = (group.get("initial_lr", 0), getattr(optimizer, "defaults", {}).get("lr", 0))
    return next((float(rate) for rate in rates if rate), 1e-2)


def _group(optimizer: Any, group: Mapping[str, Any], parameters: list[torch.nn.Parameter]) -> dict[str, Any]:
    """A parameter group with what users write into one beside the class's options, such as `use_muon=True`."""
    defaults = getattr(optimizer, "defaults", {})
    extra = {name: value for name, value in group.items() if isinstance(value, bool | str) and name not in defaults}
    return {**extra, "params": list(parameters)}


def _is_plain(value: Any) -> bool:
    """Whether it is an option, and no state."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device)
