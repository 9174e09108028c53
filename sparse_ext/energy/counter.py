"""`Counter`: something that can be read again and again, and from two readings of which joules follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

# No single counter sees more: twice what the hungriest packages and GPUs take today. Tells a wrap from a reset.
MOST_W = 4000.0


class Unreadable(Exception):
    """A counter, or a source, cannot be read. Its text is a sentence for the user."""


class Sample(NamedTuple):
    """One value of a counter, and when it was read: seconds of the meter's clock."""

    at_s: float
    value: float


class Counter(ABC):
    """Counts joules since some moment of its own.

    Attributes:
        name: which one it is, such as "GPU 0: NVIDIA H100" or "package-0".
        source, scope, resolution_j, estimated: as those of a `Sensor`.
        period_s: how often it moves; None: the meter finds out.
        wraps_at_j: after so many joules it begins again at 0; None: it does not.
    """

    name: str
    source: str
    scope: str
    resolution_j: float | None = None
    period_s: float | None = None
    estimated: bool = False
    wraps_at_j: float | None = None

    @abstractmethod
    def read(self) -> float:
        """Joules. Raises Unreadable where it cannot be read now."""

    @property
    def poll_s(self) -> float | None:
        """How often it has to be read while a window is open; None: at the window's edges only."""
        return None if self.wraps_at_j is None else self.wraps_at_j / (2 * MOST_W)

    def joules_between(self, earlier: Sample, later: Sample) -> float:
        """What was used between two samples. Raises Unreadable where the counter went down, and not because it wraps."""
        gained = later.value - earlier.value
        if gained >= 0:
            return gained
        if self.wraps_at_j is not None:
            wrapped = gained + self.wraps_at_j
            # The second more leaves room for counters that move late.
            if wrapped <= MOST_W * (later.at_s - earlier.at_s + 1):
                return wrapped
        raise Unreadable(
            f"the counter went down, from {earlier.value:.6g} J to {later.value:.6g} J: it was reset, "
            "as when a driver is loaded again"
        )

    def temperature_c(self) -> float | None:
        """Of the device, in degrees Celsius; None where unknown."""
        return None


class Power(Counter):
    """Shows watts, which are integrated by trapezoids: an estimate."""

    estimated = True

    @abstractmethod
    def read(self) -> float:
        """Watts. Raises Unreadable where they cannot be read now."""

    def joules_between(self, earlier: Sample, later: Sample) -> float:
        return (earlier.value + later.value) / 2 * (later.at_s - earlier.at_s)


class Source(Protocol):
    """Where counters come from: a row of METERS is a class whose instances, made without arguments, are sources."""

    def counters(self) -> list[Counter]:
        """Those that can be read here. Raises Unreadable, with what is missing and what helps, where there are none."""
