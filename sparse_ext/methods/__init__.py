"""Floor 3: sparse training methods. METHODS maps names to classes, for users, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .acdc import ACDC
from .actions import Action, Choose, Freeze, Regrow, RegrowEvenly, Switch
from .base import About, DropAndGrow, Exploration, Importance, Method
from .cht import CHTs, CHTss
from .est_dgm import ESTDGM
from .mest import MEST
from .nm24 import FST, SRSTE, SSTE, DenseWeight
from .numbers import LayerNumbers, Layers, Time
from .pruning import GMP, GraNet
from .rigl import SET, RigL, Static
from .sat import GRANULARITIES, SAT, Together
from .schedules import SCHEDULES
from .snfs import SNFS
from .srigl import SRigL
from .top_kast import TopKAST

METHODS: dict[str, type[Method]] = {}


def register_method(name: str, method: type[Method] | None = None) -> Callable[[type[Any]], type[Any]] | type[Any]:
    """Adds a method class to METHODS.

    Args:
        name: the key in METHODS.
        method: a frozen dataclass derived from `Method`. Without it the call returns a class decorator.

    Returns:
        The class, or the decorator. Of a class that is defined anew, as in a notebook's cell, the later one counts.

    Raises:
        TypeError: the class is not a dataclass of its own, or does not derive from `Method`.
        ValueError: another class has this name.

    Example:
        @register_method("mine")
        @dataclass(frozen=True)
        class Mine(DropAndGrow):
            grow_by = "gradient"
            signals = ("gradient",)
    """
    if method is None:
        return lambda decorated: register_method(name, decorated)  # type: ignore[return-value]
    if not (isinstance(method, type) and issubclass(method, Method) and "__dataclass_params__" in vars(method)):
        raise TypeError(f"expected a subclass of Method that is a frozen dataclass of its own, got {method!r}")
    if _full_name(METHODS.get(name, method)) != _full_name(method):
        raise ValueError(f"expected a new method name, got {name!r}, which is {METHODS[name].__name__}'s")
    METHODS[name] = method
    return method


def _full_name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


for _name, _method in (
    ("static", Static),
    ("set", SET),
    ("rigl", RigL),
    ("sr-ste", SRSTE),
    ("fst", FST),
    ("s-ste", SSTE),
    ("snfs", SNFS),
    ("mest", MEST),
    ("srigl", SRigL),
    ("chts", CHTs),
    ("chtss", CHTss),
    ("gmp", GMP),
    ("granet", GraNet),
    ("ac/dc", ACDC),
    ("est-dgm", ESTDGM),
    ("sat", SAT),
    ("top-kast", TopKAST),
):
    register_method(_name, _method)

__all__ = [
    "ACDC",
    "ESTDGM",
    "FST",
    "GMP",
    "GRANULARITIES",
    "MEST",
    "METHODS",
    "SAT",
    "SCHEDULES",
    "SET",
    "SNFS",
    "SRSTE",
    "SSTE",
    "About",
    "Action",
    "CHTs",
    "CHTss",
    "Choose",
    "DenseWeight",
    "DropAndGrow",
    "Exploration",
    "Freeze",
    "GraNet",
    "Importance",
    "LayerNumbers",
    "Layers",
    "Method",
    "Regrow",
    "RegrowEvenly",
    "RigL",
    "SRigL",
    "Static",
    "Switch",
    "Time",
    "Together",
    "TopKAST",
    "register_method",
]
