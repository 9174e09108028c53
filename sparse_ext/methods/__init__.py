"""Floor 3: dynamic sparse training methods. METHODS is the table that users, tests and benches go through."""

from .base import DropAndGrow, Growth, Method, Regrow
from .rigl import SET, RigL, Static
from .schedules import SCHEDULES

METHODS: dict[str, type[Method]] = {"static": Static, "set": SET, "rigl": RigL}

__all__ = ["METHODS", "SCHEDULES", "SET", "DropAndGrow", "Growth", "Method", "Regrow", "RigL", "Static"]
