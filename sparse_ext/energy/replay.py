"""`Replay`: a counter that plays what was recorded, for tests of what reads energy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from .clock import Clock, SystemClock
from .counter import Counter, Unreadable


class Replay(Counter):
    """A counter, and a source of one, that shows recorded joules; nothing is read from any device.

    Between two samples the counter rises evenly. Where the next sample is lower it stands still until then: so a recording may
    have a reset, or a wrap. After the last sample it has vanished.

        clock = ManualClock()
        meter = EnergyMeter(sources=[Replay([(0, 0), (60, 6000)], clock=clock)], clock=clock)  # 100 W for a minute
        with meter.window("train") as window:
            clock.advance(20)
        window.reading.joules  # 2000

    Args:
        samples: (seconds, joules), in the order of time; seconds since the replay was made.
        clock: the meter's own.
        name, scope, source, estimated, wraps_at_j: as of any `Counter`.
        resolution_j: it shows multiples of this; None: every value.
        period_s: it moves only so often; None: always.
        temperature_c: what the device shows.

    Raises:
        ValueError: no samples, or seconds that go back.
    """

    def __init__(
        self,
        samples: Sequence[tuple[float, float]],
        *,
        clock: Clock | None = None,
        name: str = "replay",
        scope: str = "GPU",
        source: str = "replay",
        period_s: float | None = None,
        resolution_j: float | None = None,
        estimated: bool = False,
        wraps_at_j: float | None = None,
        temperature_c: float | None = None,
    ) -> None:
        self._seconds = [at_s for at_s, _ in samples]
        self._joules = [joules for _, joules in samples]
        if not samples:
            raise ValueError("Replay: expected samples, got none")
        for earlier_s, later_s in pairwise(self._seconds):
            if later_s < earlier_s:
                raise ValueError(f"Replay: expected samples in the order of time, got {later_s} s after {earlier_s} s")
        self.name, self.scope, self.source = name, scope, source
        self.resolution_j, self.estimated, self.wraps_at_j = resolution_j, estimated, wraps_at_j
        self._clock = clock or SystemClock()
        self._began = self._clock.now()
        self._moves_every = period_s
        self._temperature_c = temperature_c

    def counters(self) -> list[Counter]:
        """Itself alone."""
        return [self]

    def read(self) -> float:
        now = self._clock.now() - self._began
        if now > self._seconds[-1]:
            raise Unreadable(f"the recording ends after {self._seconds[-1]:.6g} s")
        return _rounded_down(self._at(_rounded_down(now, self._moves_every)), self.resolution_j)

    def temperature_c(self) -> float | None:
        return self._temperature_c

    def _at(self, seconds: float) -> float:
        after = bisect_right(self._seconds, seconds)
        if after in (0, len(self._seconds)):
            return self._joules[max(after - 1, 0)]
        (begin, low), (end, high) = ((self._seconds[i], self._joules[i]) for i in (after - 1, after))
        return low + max(high - low, 0) * (seconds - begin) / (end - begin)


def _rounded_down(value: float, step: float | None) -> float:
    """To a multiple of the step. A billionth more, so that what is a multiple stays one."""
    return value if step is None else (value * (1 + 1e-9)) // step * step
