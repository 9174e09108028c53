"""Figures as words, the same on every page."""

from __future__ import annotations

from math import floor, log10

from .record import Interval

KIB = 1024
UNKNOWN = "unknown, because "
ROUNDING = 1e-9  # a narrower interval, relative to its mean, is that of equal values


def number(value: float) -> str:
    """With four significant digits: "0.2", "1234", "1.5e+12"."""
    return f"{value:.4g}"


def unknown(why: str | None) -> str:
    """What stands where a figure is missing: the start of a sentence."""
    return f"{UNKNOWN}{(why or 'no reason was recorded').rstrip('.')}"


def measured(value: float | None, unit: str) -> str:
    """A value with its unit, where what stands around it says why it may be unknown."""
    return f"unknown {unit}" if value is None else f"{number(value)} {unit}"


def alike(one: Interval) -> bool:
    """Whether every repeat gave the same."""
    return one.low is not None and one.high is not None and one.high - one.low <= ROUNDING * abs(one.mean)


def interval(one: Interval) -> str:
    """The mean and its ends, to two digits of the interval's half width: "0.42 (0.40 to 0.44)"."""
    if one.low is None or one.high is None:
        return f"{number(one.mean)} (one repeat)"
    if alike(one):
        return number(one.mean)
    places = max(0, 1 - floor(log10((one.high - one.low) / 2)))
    return f"{one.mean:.{places}f} ({one.low:.{places}f} to {one.high:.{places}f})"


def size(count: float) -> str:
    """Bytes, with four digits: "512 bytes", "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < KIB:
            return f"{number(count)} {unit}"
        count /= KIB
    return f"{number(count)} TiB"


def listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
