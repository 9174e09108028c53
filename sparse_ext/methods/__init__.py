"""Floor 3: methods of sparse training. METHODS is the table that users, tests and benches go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Action, Choose, DropAndGrow, LayerNumbers, Method, Regrow, Switch, Time
from .nm24 import FST, SRSTE, SSTE, DenseWeight
from .rigl import SET, RigL, Static
from .schedules import SCHEDULES

METHODS: dict[str, type[Method]] = {}


def register_method(name: str, method: type[Method] | None = None) -> Callable[[type[Any]], type[Any]] | type[Any]:
    """Adds a method to METHODS under this name; without a method a decorator: `@register_method("name")`, above `@dataclass`.

    Raises:
        TypeError: it is no frozen dataclass derived from Method. ValueError: the name is taken by another class.
    """
    if method is None:
        return lambda decorated: register_method(name, decorated)  # type: ignore[return-value]
    if not (isinstance(method, type) and issubclass(method, Method) and "__dataclass_params__" in vars(method)):
        raise TypeError(f"expected a subclass of Method that is a frozen dataclass of its own, got {method!r}")
    if METHODS.get(name, method) is not method:
        raise ValueError(f"expected a new method name, got {name!r}, which is {METHODS[name].__name__}'s")
    METHODS[name] = method
    return method


for _name, _method in (
    ("static", Static),
    ("set", SET),
    ("rigl", RigL),
    ("sr-ste", SRSTE),
    ("fst", FST),
    ("s-ste", SSTE),
):
    register_method(_name, _method)

__all__ = [
    "FST",
    "METHODS",
    "SCHEDULES",
    "SET",
    "SRSTE",
    "SSTE",
    "Action",
    "Choose",
    "DenseWeight",
    "DropAndGrow",
    "LayerNumbers",
    "Method",
    "Regrow",
    "RigL",
    "Static",
    "Switch",
    "Time",
    "register_method",
]
