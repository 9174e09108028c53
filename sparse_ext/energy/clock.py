"""Time: the system's, and one that tests turn by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What a meter asks of time. All arguments are seconds."""

    def now(self) -> float:
        """Since some moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Waits."""

    def every(self, period_s: float, function: Callable[[], object]) -> Callable[[], None]:
        """Calls the function again and again from now on, and returns a function that ends this."""


class SystemClock:
    """The system's monotonic clock; `every` has a thread of its own."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def every(self, period_s: float, function: Callable[[], object]) -> Callable[[], None]:
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(period_s):
                function()

        # A daemon: a window that was never ended does not keep the process alive.
        threading.Thread(target=run, name="sparse_ext.energy", daemon=True).start()
        return ended.set


class ManualClock:
    """A clock for tests: it stands still until `advance` or `sleep` turns it, and nothing waits.

    Args:
        now: what it shows first, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._due: dict[object, tuple[float, float, Callable[[], object]]] = {}

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Turns it forward, and calls on the way what is to be called regularly, each at its time."""
        until = self._now + seconds
        while self._due:
            key, (at, period_s, function) = min(self._due.items(), key=lambda item: item[1][0])
            if at > until:
                break
            self._now = at
            self._due[key] = (at + period_s, period_s, function)
            function()
        self._now = until

    sleep = advance

    def every(self, period_s: float, function: Callable[[], object]) -> Callable[[], None]:
        key = object()
        self._due[key] = (self._now + period_s, period_s, function)

        def end() -> None:
            self._due.pop(key, None)

        return end
