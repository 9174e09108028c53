"""Floor 3: methods of sparse training. METHODS is the table that users, tests and benches go through."""

from .base import Action, Choose, DropAndGrow, LayerNumbers, Method, Regrow, Switch, Time
from .nm24 import FST, SRSTE, SSTE, DenseWeight
from .rigl import SET, RigL, Static
from .schedules import SCHEDULES

METHODS: dict[str, type[Method]] = {}


def register_method(name: str, method: type[Method]) -> type[Method]:
    """Adds a method to METHODS under this name.

    Raises:
        ValueError: the name is taken by another class.
    """
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
