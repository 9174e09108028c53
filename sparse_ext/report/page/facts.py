"""How it was measured: the machine, the sensor, the protocol and versions, as terms and what they are."""

from __future__ import annotations

import json

from ..amounts import UNKNOWN, measure
from ..record import Arm, Idle, Machine, Record, Sensor
from .words import short

Facts = list[tuple[str, str]]


def facts(record: Record) -> list[tuple[str, Facts]]:
    return [
        ("Machine", _machine(record.machine)),
        ("Energy", _energy(record)),
        ("Protocol", _protocol(record)),
        ("Versions", [(name, UNKNOWN if version is None else version) for name, version in record.versions.items()]),
    ]


def config(record: Record) -> str:
    return json.dumps(record.config, indent=2, ensure_ascii=False, default=str)


def arm_facts(arm: Arm) -> str:
    """What an arm is, in a line below its name."""
    choices = ", ".join(f"{name} {value}" for name, value in arm.choices.items())
    layout = f"layout {arm.layout}" if arm.layout else ""
    matched = f"as many {arm.matched} as {arm.matches}" if arm.matches and arm.matched else ""
    return "; ".join(filter(None, [arm.precision, layout, choices, matched]))


def _machine(machine: Machine) -> Facts:
    found = [
        ("device", f"{machine.device}, {machine.devices} of them" if machine.devices > 1 else machine.device),
        ("GPU", machine.gpu),
        ("GPU's id", machine.gpu_uuid),
        ("driver", machine.driver),
        ("power limit", None if machine.power_limit_w is None else f"{short(machine.power_limit_w)} W"),
        ("CPU", f"{machine.cpu}, {machine.isa}"),
        (
            "cores",
            f"{machine.cores}; {machine.threads} threads used" if machine.threads != 1 else f"{machine.cores}; 1 thread used",
        ),
        ("memory", measure(machine.memory_bytes, "bytes")),
        ("system", machine.os),
    ]
    return [(term, value) for term, value in found if value is not None]


def _energy(record: Record) -> Facts:
    return [*_sensor(record.sensor, record.sensor_why), *((f"idle, {idle.when}", _idle(idle)) for idle in record.idle)]


def _sensor(sensor: Sensor | None, why: str | None) -> Facts:
    if sensor is None:
        return [("sensor", f"none: {why}")]
    return [
        ("sensor", sensor.source),
        ("it covers", sensor.scope),
        ("resolution", measure(sensor.resolution_j, "joules")),
        ("it moves every", measure(sensor.period_s, "seconds")),
        ("joules are", "estimated" if sensor.estimated else "counted"),
    ]


def _idle(idle: Idle) -> str:
    parts = [measure(idle.seconds_s, "seconds"), f"{short(idle.mean_w)} W" if idle.mean_w is not None else "power unknown"]
    if idle.temperature_c is not None:
        parts.append(f"{short(idle.temperature_c)} °C")
    return ", ".join(parts)


def _protocol(record: Record) -> Facts:
    metric = record.metric
    better = "higher" if metric.higher_is_better else "lower"
    repeats = sorted({len(arm.runs) for arm in record.arms})
    return [
        ("task", record.entry),
        ("judged by", f"{metric.name}, {better} is better"),
        ("counts as equal", f"up to {short(metric.tolerance)} worse"),
        ("repeats", " or ".join(map(str, repeats))),
        ("intervals", "95 %, Student's t over the repeats; ratios are paired by seed"),
        ("made", record.created),
    ]
