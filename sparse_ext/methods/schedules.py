"""Schedules of the drop fraction. SCHEDULES maps a name to a function from progress in [0, 1] to a factor."""

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
