"""What a window measured, and what measured it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sensor:
    """What measures.

    Attributes:
        source: such as "NVML energy counter"; several are joined by " + ".
        scope: whose energy it counts: "GPU", "module" (a GPU with its CPU and their memory), "platform", "package" (a CPU),
            "DRAM"; several are joined by " + ".
        resolution_j: the smallest step of the counter; None: unknown.
        period_s: how often the counter moves; None: unknown.
        estimated: whether joules are integrated or modelled, not counted.
    """

    source: str
    scope: str
    resolution_j: float | None = None
    period_s: float | None = None
    estimated: bool = False


@dataclass(frozen=True)
class Reading:
    """The energy and time of one window.

    Attributes:
        name: the window's; of a part, the counter's.
        joules: None where unknown, never 0; `why` then says why.
        seconds: of the window, after the device has finished what was asked of it.
        sensor: None where nothing measures.
        why: a sentence; None: nothing is unknown.
        warning: a sentence where joules are known, but not well: a window that is short for its counter. None: they are.
        parts: a reading for each counter, as a GPU or a CPU; empty for a part.
    """

    name: str
    joules: float | None
    seconds: float
    sensor: Sensor | None
    why: str | None = None
    warning: str | None = None
    parts: tuple[Reading, ...] = ()

    @property
    def mean_w(self) -> float | None:
        """Watts, over the window; None where joules are."""
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds

    @property
    def source(self) -> str | None:
        """As the sensor's."""
        return getattr(self.sensor, "source", None)

    @property
    def scope(self) -> str | None:
        """As the sensor's."""
        return getattr(self.sensor, "scope", None)

    @property
    def resolution_j(self) -> float | None:
        """As the sensor's."""
        return getattr(self.sensor, "resolution_j", None)

    @property
    def period_s(self) -> float | None:
        """As the sensor's."""
        return getattr(self.sensor, "period_s", None)

    @property
    def estimated(self) -> bool:
        """As the sensor's; False where nothing measures."""
        return self.sensor is not None and self.sensor.estimated

    def __str__(self) -> str:
        if self.joules is None:
            return f"{self.name}: unknown energy in {self.seconds:.4g} s: {self.why}"
        watts = "" if self.mean_w is None else f" ({self.mean_w:.4g} W)"
        how = f"{self.source}, {'estimated, ' if self.estimated else ''}{self.scope}"
        return f"{self.name}: {self.joules:.5g} J in {self.seconds:.4g} s{watts}; {how}"


def together(sensors: Sequence[Sensor]) -> Sensor | None:
    """Several as one: the coarsest step, the longest period, estimated if any is. None of none."""
    if not sensors:
        return None
    return Sensor(
        _joined(" + ", (sensor.source for sensor in sensors)),
        _joined(" + ", (sensor.scope for sensor in sensors)),
        _largest([sensor.resolution_j for sensor in sensors]),
        _largest([sensor.period_s for sensor in sensors]),
        any(sensor.estimated for sensor in sensors),
    )


def total(name: str, seconds: float, parts: Sequence[Reading]) -> Reading:
    """The reading of a window, of those of its counters. Where one is unknown, so is the sum."""
    joules = [part.joules for part in parts if part.joules is not None]
    return Reading(
        name,
        sum(joules) if parts and len(joules) == len(parts) else None,
        seconds,
        together([part.sensor for part in parts if part.sensor is not None]),
        _joined("; ", (f"{part.name}: {part.why}" for part in parts if part.why)) or None,
        _joined("; ", (f"{part.name}: {part.warning}" for part in parts if part.warning)) or None,
        tuple(parts),
    )


def _joined(separator: str, texts: Iterable[str]) -> str:
    """Each once, in their order."""
    return separator.join(dict.fromkeys(texts))


def _largest(values: Sequence[float | None]) -> float | None:
    """None where one is unknown."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
