"""Figures as words, the same on every page."""

from __future__ import annotations

from math import floor, log10

from .record import Interval

UNKNOWN = "unknown, because "
PLAIN = (1e-4, 1e6)  # ends of intervals from and to which no exponent is written
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
    """The mean and its ends, to two digits of the half width: "0.420 (0.400 to 0.440)", "2.9e+10 (1.6e+10 to 4.1e+10)"."""
    if one.low is None or one.high is None:
        return f"{number(one.mean)} (one repeat)"
    if alike(one):
        return number(one.mean)
    largest, half = max(abs(one.low), abs(one.high)), (one.high - one.low) / 2
    places, kind = 1 - floor(log10(half)), "f"
    if not PLAIN[0] <= largest < PLAIN[1]:
        places, kind = places + floor(log10(largest)), "e"
    form = f".{max(0, places)}{kind}"
    return f"{one.mean:{form}} ({one.low:{form}} to {one.high:{form}})"


def listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
