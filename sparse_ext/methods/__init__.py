"""Floor 3: dynamic sparse training methods. METHODS is the table that users, tests and benches go through."""

from .base import DropAndGrow, Growth, Method, Regrow
from .nm24 import FST, SRSTE, SSTE, DenseMaster
from .rigl import SET, RigL, Static
from .schedules import SCHEDULES

METHODS: dict[str, type[Method]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "sr-ste": SRSTE,
    "fst": FST,
    "s-ste": SSTE,
}

__all__ = [
    "FST",
    "METHODS",
    "SCHEDULES",
    "SET",
    "SRSTE",
    "SSTE",
    "DenseMaster",
    "DropAndGrow",
    "Growth",
    "Method",
    "Regrow",
    "RigL",
    "Static",
]
