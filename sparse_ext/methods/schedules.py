"""Schedules of the drop fraction, and times. SCHEDULES maps a name to a function from progress in [0, 1] to a factor."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """(1 + cos(pi * progress)) / 2: from 1 to 0 (Dettmers & Zettlemoyer 2019; Evci et al. 2020, section 3)."""
    return (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2.0


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


def step_at(when: float | int, total_steps: int) -> int:
    """A time as a step number: a share of the run (float), or the number itself (int)."""
    return round(when * total_steps) if isinstance(when, float) else when


def check_when(name: str, when: float | int) -> None:
    """ValueError unless it is a time."""
    if not (0.0 <= when <= 1.0 if isinstance(when, float) else isinstance(when, int) and when >= 0):
        raise ValueError(f"expected {name} as a share of the run in [0, 1] (float) or a number of steps (int), got {when!r}")
