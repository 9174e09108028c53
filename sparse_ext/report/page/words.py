"""Numbers in sentences and on axes, and names as short as their place."""

from __future__ import annotations

from math import floor, log10
from textwrap import wrap

from ..amounts import fixed, number


def short(value: float | None, digits: int = 3) -> str:
    """A number without zeros at its end, for sentences and axes: 0.012, 1.2, 12."""
    text = number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def times(ratio: float) -> str:
    """A ratio to the reference: 0.28×."""
    return f"{number(ratio, 2 if ratio < 1 else 3)}×"


def between(low: float, high: float) -> str:
    """The ends of a ratio's interval, with two digits of its half width: 0.278× to 0.286×."""
    places = max(2, 1 - floor(log10((high - low) / 2)))
    return f"{fixed(low, places)}× to {fixed(high, places)}×"


def percent(share: float) -> str:
    return f"{short(100 * share)} %"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def printable(text: str) -> str:
    """Without what a page cannot hold: control characters and halves of surrogate pairs."""
    return "".join(one if one.isprintable() else " " for one in text)


def wrapped(name: str, length: int) -> list[str]:
    """A name in at most two lines."""
    return wrap(shortened(name, 2 * length - 4), length)[:2] or [""]


def shortened(name: str, length: int = 34) -> str:
    """A name for a place with little room: its beginning and its end."""
    end = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - end].rstrip()}…{name[-end:].lstrip()}"
