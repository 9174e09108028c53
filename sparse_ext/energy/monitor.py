"""Windows of another's monitor, such as zeus' ZeusMonitor, which also reads AMD's GPUs, Apple's chips and NVIDIA's Jetson."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from .reading import Reading, Sensor, together, total

# Fields of zeus' Measurement: {index: joules}, or None where nothing counts; and what they cover.
FIELDS = {"gpu_energy": "GPU", "cpu_energy": "package", "dram_energy": "DRAM"}
# Fields of its soc_energy, millijoules. Those of the first group that has any are added up: Jetson's total has all of it.
SOC_FIELDS = (
    ("total_energy_mj",),
    ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj", "cpu_energy_mj", "gpu_energy_mj"),
)


class Monitor(Protocol):
    """What may measure in an `EnergyMeter`'s place."""

    def begin_window(self, name: str, /) -> object:
        """Begins a window."""

    def end_window(self, name: str, /) -> Any:
        """Ends it; returns a `Reading`, or an object with zeus' `time`, and `gpu_energy` or `total_energy` in joules."""


class Monitored:
    """What an `EnergyMeter` asks, of an object with begin_window(name) and end_window(name).

    Raises:
        TypeError: it has not both.
    """

    def __init__(self, monitor: Monitor) -> None:
        for function in ("begin_window", "end_window"):
            if not callable(getattr(monitor, function, None)):
                raise TypeError(
                    f"EnergyMeter: expected a monitor with begin_window and end_window, got {type(monitor).__name__} without "
                    f"{function} (counters are given as sources=[...])"
                )
        self._monitor: Any = monitor
        kind = type(monitor)
        self._source = f"{kind.__name__} of {kind.__module__.partition('.')[0]}"
        # zeus integrates power for GPUs without a counter, and for short windows if asked to.
        self._estimated = bool(getattr(monitor, "power_monitor", None) or getattr(monitor, "approx_instant_energy", False))
        scopes = list(_scopes(monitor))
        self.sensor = together([self._sensor(scope) for scope in scopes])
        self.why = None if scopes else f"{self._source} finds no counter that it can read here"

    def watch(self) -> None:
        """Nothing: the monitor knows its counters."""

    def begin(self, name: str) -> str | None:
        """Why the window cannot be measured; None: it is."""
        try:
            self._monitor.begin_window(name)
        except Exception as error:  # a monitor's trouble is not the training's
            return f"{self._source}: {error}"
        return None

    def end(self, name: str, why: str | None, seconds: float) -> Reading:
        """As the monitor says."""
        if why is None:
            try:
                return self._reading(name, self._monitor.end_window(name), seconds)
            except Exception as error:
                why = f"{self._source}: {error}"
        return Reading(name, None, seconds, self.sensor, why)

    def temperature_c(self) -> float | None:
        """Of the hottest GPU, if the monitor can say."""
        monitor = self._monitor
        try:
            return max(float(monitor.gpus.get_gpu_temperature(index)) for index in monitor.gpu_indices)
        except Exception:
            return None

    def _sensor(self, scope: str) -> Sensor:
        return Sensor(self._source, scope, estimated=self._estimated)

    def _reading(self, name: str, measured: Any, seconds: float) -> Reading:
        if isinstance(measured, Reading):
            self.sensor = measured.sensor
            return measured
        seconds = float(getattr(measured, "time", seconds))
        parts = []
        for part, scope, joules in _parts(measured):
            why = None if joules > 0 else f"the counter moved by {joules:.3g} J in the {seconds:.3g} s of the window"
            parts.append(Reading(part, None if why else joules, seconds, self._sensor(scope), why))
        if parts:
            reading = total(name, seconds, parts)
            self.sensor = reading.sensor  # now it is known whether DRAM is counted
            return reading
        found = f"{self._source} measured no energy: expected gpu_energy or total_energy, got {measured!r}"
        return Reading(name, None, seconds, self.sensor, self.why or found)


def _scopes(monitor: Any) -> Iterator[str]:
    """What a monitor covers: zeus' attributes; of another one, which has none of them, it is not known."""
    if not hasattr(monitor, "gpu_indices"):
        yield "not stated"
        return
    if monitor.gpu_indices:
        yield "GPU"
    if getattr(monitor, "cpu_indices", None):
        yield "package"
    if getattr(monitor, "soc_is_present", False):
        yield "module"


def _parts(measured: Any) -> Iterator[tuple[str, str, float]]:
    """(name, scope, joules) of each counter."""
    known = {name: getattr(measured, name, None) or {} for name in FIELDS}
    for name, scope in FIELDS.items():
        for index, joules in known[name].items():
            yield f"{scope} {index}", scope, float(joules)
    soc = getattr(measured, "soc_energy", None)
    for fields in SOC_FIELDS:
        millijoules = [value for field in fields if (value := getattr(soc, field, None)) is not None]
        if millijoules:
            yield "SoC", "module", sum(millijoules) / 1e3
            return
    if not hasattr(measured, "gpu_energy") and hasattr(measured, "total_energy"):
        yield "total", "not stated", float(measured.total_energy)
