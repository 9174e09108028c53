"""`EnergyMeter`: joules and seconds of windows that have names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .clock import Clock, SystemClock
from .counter import Source
from .counting import Counting
from .device import synchronise
from .monitor import Monitor, Monitored
from .reading import Reading, Sensor
from .sources import find_counters


@dataclass
class Window:
    """What `EnergyMeter.window` gives. `reading` is None until the window has ended."""

    name: str
    reading: Reading | None = None


class _Open(NamedTuple):
    """A window that has begun: what was read then, when, and what was in the way."""

    state: Any
    began_s: float
    why: str | None


class EnergyMeter:
    """Measures the energy of windows: a step, a phase, a whole run.

        meter = EnergyMeter()
        with meter.window("train") as window:
            train()
        print(window.reading)  # train: 412.3 J in 10.02 s (41.15 W); NVML energy counter, GPU

    Windows of different names may overlap or lie in each other. Where nothing can be read, joules are None and `why` says why;
    seconds are always measured. What goes wrong with a counter is told in the reading and never raised. At its edges a window
    waits for the GPUs that torch uses. Counters are of devices, not of processes: whatever else runs there is counted, too.

    The first window, or `sensor`, begins by watching how often the counters move, for two seconds at most.

    Args:
        monitor: an object with begin_window(name) and end_window(name), such as zeus' ZeusMonitor, which measures instead.
        sources: names of METERS, or objects with `counters()`, such as `Nvml(devices=[0])`. None: all of METERS that can be
            read here.
        clock: that tells seconds; tests may turn one by hand.

    Attributes:
        notes: sentences about sources that cannot be read here and counters that are left out.

    Raises:
        ValueError, TypeError: of arguments that are no monitor and no sources, and where both are given.
    """

    def __init__(
        self, monitor: Monitor | None = None, *, sources: Sequence[str | Source] | None = None, clock: Clock | None = None
    ) -> None:
        if monitor is not None and sources is not None:
            raise ValueError("EnergyMeter: expected a monitor or sources, got both")
        self._clock = clock or SystemClock()
        self._open: dict[str, _Open] = {}
        self.notes: tuple[str, ...] = ()
        self._windows: Counting | Monitored
        if monitor is None:
            counters, notes = find_counters(sources)
            self.notes = tuple(notes)
            why = None if counters else "no energy counter can be read here: " + ("; ".join(notes) or "no sources are given")
            self._windows = Counting(counters, why, self._clock)
        else:
            self._windows = Monitored(monitor)

    @property
    def sensor(self) -> Sensor | None:
        """What measures here; None: nothing, and `why` says why."""
        return self._windows.sensor

    @property
    def why(self) -> str | None:
        """Why nothing measures here, in a sentence; None: something does."""
        return self._windows.why

    def temperature_c(self) -> float | None:
        """Of the hottest device, in degrees Celsius; None where unknown."""
        return self._windows.temperature_c()

    def begin_window(self, name: str) -> None:
        """Begins a window. ValueError: one of that name is open."""
        if name in self._open:
            raise ValueError(f"begin_window: expected the name of no open window, got {name!r}")
        self._windows.watch()
        why = synchronise()
        began_s = self._clock.now()
        self._open[name] = _Open(self._windows.begin(name), began_s, why)

    def end_window(self, name: str) -> Reading:
        """Ends a window and says what it used. ValueError: none of that name is open."""
        if name not in self._open:
            known = ", ".join(map(repr, self._open)) or "none"
            raise ValueError(f"end_window: expected the name of an open window ({known}), got {name!r}")
        opened = self._open.pop(name)
        why = synchronise()
        seconds = self._clock.now() - opened.began_s
        reading = self._windows.end(name, opened.state, seconds)
        in_the_way = opened.why or why
        if reading.joules is None or in_the_way is None:
            return reading
        return replace(reading, joules=None, why=in_the_way, warning=None, parts=())

    @contextmanager
    def window(self, name: str) -> Iterator[Window]:
        """A window around a block; its `reading` is there afterwards, also after an exception."""
        window = Window(name)
        self.begin_window(name)
        try:
            yield window
        finally:
            window.reading = self.end_window(name)
