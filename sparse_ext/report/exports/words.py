"""What the exports say alike: where it ran, what measured the energy, and what the energy was."""

from __future__ import annotations

from statistics import fmean

from .. import figures
from ..record import Arm, Machine, Record


def joules(arm: Arm, which: str = "gross_j") -> tuple[float | None, str | None]:
    """The mean over the arm's runs of one of `Energy`'s figures, "gross_j" or "net_j"; or None and why.

    It is None where one run lacks the figure: the mean of the others would be that of fewer runs.
    """
    if not arm.runs:
        return None, "no run was recorded"
    known = []
    for run in arm.runs:
        value: float | None = getattr(run.energy, which)
        if value is None:
            return None, run.energy.why
        known.append(value)
    return fmean(known), None


def hardware(machine: Machine) -> str:
    """The devices that trained: "1 x NVIDIA H200"."""
    return f"{machine.devices} x {machine.gpu if machine.gpu is not None and machine.device != 'cpu' else machine.cpu}"


def sensor(record: Record) -> str:
    """What measured the energy, and what it covers; or why nothing did."""
    one = record.sensor
    if one is None:
        return figures.unknown(record.sensor_why)
    moves = "" if one.period_s is None else f"; moves every {figures.number(one.period_s)} s"
    steps = "" if one.resolution_j is None else f"; resolution {figures.number(one.resolution_j)} J"
    return f"{one.source}; covers: {one.scope}{moves}{steps}"


def how(record: Record, arm: Arm) -> str:
    """Whether the arm's joules were counted."""
    estimated = any(run.energy.estimated for run in arm.runs) or (record.sensor is not None and record.sensor.estimated)
    return "estimated: integrated or modelled, not counted" if estimated else "counted"


def energy(record: Record, arm: Arm) -> str:
    """A sentence: the energy of one run and how it was measured, or why it is unknown."""
    value, why = joules(arm)
    if value is None:
        return f"The training energy is {figures.unknown(why)}."
    runs = f"mean of {len(arm.runs)} runs" if len(arm.runs) > 1 else "one run"
    return (
        f"The training energy is {figures.number(value)} J ({runs}; changes of the pattern and evaluation included; "
        f"the idle machine's share not subtracted), {how(record, arm)}. Sensor: {sensor(record)}."
    )
