"""Numbers as people read them: three digits, and a unit of which there are a few. The same on every page and in estimates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log10

UNKNOWN = "unknown"
MINUS = "\u2212"


@dataclass(frozen=True)
class Unit:
    """`factor`: how many of what a record holds (seconds, bytes, shares) are one of it. `least`: it is used from so many on."""

    name: str
    factor: float
    least: float = 1.0


# {quantity: its units, smallest first}
UNITS = {
    "seconds": (Unit("µs", 1e-6), Unit("ms", 1e-3), Unit("s", 1.0), Unit("min", 60.0, 2.0), Unit("h", 3600.0, 2.0)),
    "joules": (Unit("mJ", 1e-3), Unit("J", 1.0), Unit("kJ", 1e3), Unit("MJ", 1e6), Unit("GJ", 1e9)),
    "watts": (Unit("W", 1.0), Unit("kW", 1e3)),
    "bytes": (Unit("B", 1.0), Unit("kB", 1e3), Unit("MB", 1e6), Unit("GB", 1e9), Unit("TB", 1e12), Unit("PB", 1e15)),
    "flops": tuple(Unit(f"{prefix}FLOP", 1e3**power) for power, prefix in enumerate(["", "k", "M", "G", "T", "P", "E", "Z"])),
    "share": (Unit("%", 0.01),),
    "celsius": (Unit("°C", 1.0),),
    "days": (Unit("days", 1.0),),
    "count": (Unit("", 1.0),),
}


def unit_for(quantity: str, values: Iterable[float | None]) -> Unit:
    """One unit for all of them: the largest that the largest value has at least one of, and two of minutes or hours."""
    units = UNITS[quantity]
    largest = max((abs(value) for value in values if value), default=None)
    if largest is None:
        return next((unit for unit in units if unit.factor == 1), units[0])
    return next((unit for unit in reversed(units) if largest >= unit.least * unit.factor), units[0])


def number(value: float | None, digits: int = 3) -> str:
    """As many digits, zeros too, and more where they stand before the point: 0.0120, 1.20, 12.0, 12,345."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    if not 1e-6 <= abs(value) < 1e12:
        return _signed(rounded)
    return fixed(value, digits - 1 - floor(log10(abs(float(rounded)))))


def fixed(value: float, decimals: int) -> str:
    """So many digits after the point, and none for a negative number of them."""
    return _signed(f"{value:,.{max(0, decimals)}f}")


def measure(value: float | None, quantity: str) -> str:
    """A value with its unit: 23.4 s."""
    if value is None:
        return UNKNOWN
    unit = unit_for(quantity, [value])
    return f"{number(value / unit.factor)} {unit.name}".strip()


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
