"""What measures energy, as a comparison sees it, and the sum of its readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sparse_ext.report.record import Sensor


class Reading(Protocol):
    """Of one window; joules None: unknown, and `why` is a sentence. `warning`: another one, of joules that may be wrong."""

    @property
    def joules(self) -> float | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def mean_w(self) -> float | None: ...
    @property
    def estimated(self) -> bool: ...
    @property
    def why(self) -> str | None: ...
    @property
    def warning(self) -> str | None: ...


class Meter(Protocol):
    """`sparse_ext.energy.EnergyMeter`, or what behaves like it. `sensor` None: there is none, and `why` is a sentence."""

    @property
    def sensor(self) -> Any: ...
    @property
    def why(self) -> str | None: ...
    def begin_window(self, name: str) -> None: ...
    def end_window(self, name: str) -> Reading: ...
    def temperature_c(self) -> float | None: ...


def default_meter(device: torch.device) -> Meter:
    """Counters of the CPU, and of the GPU that trains: joules of others would hide what is saved, or seem to be saved."""
    from sparse_ext.energy import EnergyMeter, Nvml, Rapl

    if device.type != "cuda":
        return EnergyMeter(sources=[Rapl()])
    index = torch.cuda.current_device() if device.index is None else device.index
    return EnergyMeter(sources=[Nvml(devices=[index]), Rapl()])


def sensor_of(meter: Meter) -> Sensor | None:
    """Its sensor as a record holds it."""
    one = meter.sensor
    return one and Sensor(one.source, one.scope, one.resolution_j, one.period_s, one.estimated)


@dataclass
class Tally:
    """The sum of readings.

    Attributes:
        joules: None: one was unknown, and `why` says why.
        estimated: whether one was.
        windows: number of readings; warned: of those that came with a warning, of which `warning` is the first.
    """

    joules: float | None = 0.0
    estimated: bool = False
    why: str | None = None
    windows: int = 0
    warned: int = 0
    warning: str | None = None

    def add(self, reading: Reading, share: float) -> None:
        """A reading, of which this share counts."""
        self.estimated |= reading.estimated
        self.windows += 1
        if reading.warning is not None:
            self.warned, self.warning = self.warned + 1, self.warning or reading.warning
        if reading.joules is None:
            self.why = self.why or reading.why
            self.joules = None
        elif self.joules is not None:
            self.joules += share * reading.joules
