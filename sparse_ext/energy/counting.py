"""Windows over counters of our own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .clock import Clock
from .counter import Counter
from .period import update_periods
from .reading import Reading, Sensor, together, total
from .track import Mark, Track


class Counting:
    """What an `EnergyMeter` asks, of counters.

    Args:
        counters: those whose joules are added up.
        why: of no counters: why there are none.
    """

    def __init__(self, counters: Sequence[Counter], why: str | None, clock: Clock) -> None:
        self.why = why
        self._clock = clock
        self._tracks = [Track(counter, clock) for counter in counters]
        self._polled = [track for track in self._tracks if track.counter.poll_s is not None]
        self._poll_s = min((counter.poll_s for counter in counters if counter.poll_s is not None), default=0.0)
        self._lock = threading.Lock()
        self._windows = 0
        self._stop_polling: Callable[[], None] = lambda: None
        self._watched = False

    @property
    def sensor(self) -> Sensor | None:
        """All counters together."""
        self.watch()
        return together([track.sensor for track in self._tracks])

    def watch(self) -> None:
        """Finds out, once, how often each counter moves; takes at most some seconds."""
        if self._watched:
            return
        self._watched = True
        unknown = [track for track in self._tracks if track.period_s is None]
        for track, period_s in zip(unknown, update_periods([track.counter for track in unknown], self._clock), strict=True):
            track.period_s = period_s

    def begin(self, name: str) -> list[Mark]:
        """The counters as they are now. While a window is open, those that wrap or show power are read in between, too."""
        with self._lock:
            self._windows += 1
            marks = [track.mark() for track in self._tracks]
            if self._windows == 1 and self._polled:
                self._stop_polling = self._clock.every(self._poll_s, self._poll)
            return marks

    def end(self, name: str, marks: list[Mark], seconds: float) -> Reading:
        """What they counted since."""
        parts = [track.since(mark, seconds) for track, mark in zip(self._tracks, marks, strict=True)]
        with self._lock:
            self._windows -= 1
            if self._windows == 0:
                self._stop_polling()
        return total(name, seconds, parts) if parts else Reading(name, None, seconds, None, self.why)

    def temperature_c(self) -> float | None:
        """Of the hottest device."""
        known = [track.temperature_c() for track in self._tracks]
        return max((celsius for celsius in known if celsius is not None), default=None)

    def _poll(self) -> None:
        for track in self._polled:
            track.mark()
