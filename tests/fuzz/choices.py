"""`Choices`: what a random test decides, one number after the other. They come from bytes, or from hypothesis.

Bytes are what fuzzers turn, and what the corpora hold: the same bytes make the same decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Choices:
    """Read from bytes: of every number as many as it may need. Once they are used up, every number is 0."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        """A number from 0 to count - 1."""
        width = max(1, ((count - 1).bit_length() + 7) // 8)
        chunk, self._at = self._data[self._at : self._at + width], self._at + width
        return int.from_bytes(chunk, "little") % count

    def of(self, options: Sequence[Any]) -> Any:
        """One of them; the first ones should be the plain ones."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases; False once the bytes are used up."""
        return self.below(100) >= 100 - percent


class Drawn(Choices):
    """Drawn by hypothesis (`st.data()`), which finds the smallest numbers that make a test fail."""

    def __init__(self, data: Any, integers: Any) -> None:
        self._draw, self._integers = data.draw, integers

    def below(self, count: int) -> int:
        return self._draw(self._integers(0, count - 1))
