"""`Track`: a counter followed from reading to reading, whatever it does: wraps, is reset, vanishes and comes back."""

from __future__ import annotations

import threading
from typing import NamedTuple

from .clock import Clock
from .counter import Counter, Sample
from .reading import Reading, Sensor

# A window's joules get a warning where they may be off by more than this share, and are unknown where they may be off by all.
LARGE_ERROR = 0.05


class Mark(NamedTuple):
    """Where a track was at the edge of a window: joules since it began, and how often it had broken off before."""

    joules: float
    breaks: int


class Track:
    """Adds up what a counter counts. Several threads may call it."""

    def __init__(self, counter: Counter, clock: Clock) -> None:
        self.counter = counter
        self.period_s = counter.period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Sample | None = None
        self._joules = 0.0
        self._breaks = 0
        self._why = ""

    @property
    def sensor(self) -> Sensor:
        """What the counter is, with its period where that is known by now."""
        counter = self.counter
        return Sensor(counter.source, counter.scope, counter.resolution_j, self.period_s, counter.estimated)

    def mark(self) -> Mark:
        """Reads the counter. Never raises: a window whose counter cannot be read has a break in it."""
        with self._lock:
            before = self._breaks
            # Counters may be anyone's; whatever goes wrong in one must not end a training run.
            try:
                sample = Sample(self._clock.now(), self.counter.read())
            except Exception as error:
                self._break_off(error)
                self._last = None
                return Mark(self._joules, before)
            try:
                if self._last is not None:
                    self._joules += self.counter.joules_between(self._last, sample)
            except Exception as error:
                self._break_off(error)
            self._last = sample
            return Mark(self._joules, self._breaks)

    def since(self, mark: Mark, seconds: float) -> Reading:
        """Reads the counter; what it has counted since that mark, in a window of so many seconds."""
        joules = self.mark().joules - mark.joules
        with self._lock:
            why = self._why if self._breaks != mark.breaks else _unknown(joules, seconds, self.period_s)
        warning = None if why else _warning(joules, seconds, self.period_s, self.counter.resolution_j)
        return Reading(self.counter.name, None if why else joules, seconds, self.sensor, why, warning)

    def temperature_c(self) -> float | None:
        """Of the counter's device; None where it cannot be read."""
        try:
            return self.counter.temperature_c()
        except Exception:
            return None

    def _break_off(self, error: Exception) -> None:
        self._breaks += 1
        self._why = str(error) or type(error).__name__


def _unknown(joules: float, seconds: float, period_s: float | None) -> str | None:
    """Why such a window says nothing, if so."""
    if period_s is not None and seconds < period_s:
        return f"a window of {seconds:.3g} s is shorter than the counter's update period of {period_s:.3g} s"
    if joules <= 0:
        return f"the counter did not move in the {seconds:.3g} s of the window"
    return None


def _warning(joules: float, seconds: float, period_s: float | None, resolution_j: float | None) -> str | None:
    """What is wrong with such a window, if anything."""
    if period_s is None:
        return "how often the counter moves is unknown, so this window may be too short for it"
    error = period_s / seconds + (resolution_j or 0) / joules
    if error <= LARGE_ERROR:
        return None
    return (
        f"a short window: the counter moves every {period_s:.3g} s"
        + (f" by at least {resolution_j:.3g} J" if resolution_j else "")
        + f", so {joules:.4g} J in {seconds:.3g} s may be off by {error:.0%}"
    )
