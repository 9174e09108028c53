"""Where and how a comparison was measured, in paragraphs."""

from __future__ import annotations

from collections.abc import Iterator

from . import amounts, figures
from .record import Idle, Machine, Record, Sensor
from .run import Run


def paragraphs(record: Record) -> Iterator[str]:
    """On the task, the machine, the sensor of energy, and the machine at rest."""
    yield _task(record)
    versions = ", ".join(f"{name} {'unknown' if value is None else value}" for name, value in record.versions.items())
    yield f"{_machine(record.machine)} Versions: {versions}."
    yield energy(record.sensor, record.sensor_why)
    yield " ".join([*map(_idle, record.idle), _temperatures([run for arm in record.arms for run in arm.runs])])


def _task(record: Record) -> str:
    metric, seeds = record.metric, figures.listed([str(run.seed) for run in record.arms[0].runs])
    better = "higher" if metric.higher_is_better else "lower"
    return (
        f"The task is `{record.entry}`, judged by {metric.name}: {better} is better. The tolerance, declared beforehand, is"
        f" {figures.number(metric.tolerance)}. Every arm ran with each of the seeds {seeds}; ratios and losses are paired by"
        f" seed. Figures in parentheses are 95 % confidence intervals; where there is none, every repeat gave the same."
        f" Written {record.created}."
    )


def _machine(machine: Machine) -> str:
    memory = amounts.measure(machine.memory_bytes, "bytes")
    cpu = f"{machine.cpu} ({machine.isa}), cores {machine.cores}, threads in use {machine.threads}, memory {memory}"
    sentences = [f"Trained on {machine.devices} x {machine.device}, under {machine.os}. CPU: {cpu}."]
    if machine.gpu is not None:
        names = f"UUID {machine.gpu_uuid or 'unknown'}, driver {machine.driver or 'unknown'}"
        sentences.append(f"GPU: {machine.gpu}, {names}, power limit {figures.measured(machine.power_limit_w, 'W')}.")
    return " ".join(sentences)


def energy(sensor: Sensor | None, why: str | None) -> str:
    """What measured it, or why nothing did."""
    if sensor is None:
        return f"Energy is {figures.unknown(why)}."
    step = f"resolution {figures.measured(sensor.resolution_j, 'J')}, period {figures.measured(sensor.period_s, 's')}"
    how = "Joules are estimated, not counted." if sensor.estimated else "Joules are counted."
    return f"Energy is that of the {sensor.scope}, by the {sensor.source}: {step}. {how}"


def _idle(idle: Idle) -> str:
    joules, watts = figures.measured(idle.joules, "J"), figures.measured(idle.mean_w, "W")
    return f"At rest {idle.when} the runs: {figures.number(idle.seconds_s)} s, {joules}, {watts}."


def _temperatures(runs: list[Run]) -> str:
    """Of the device, over all runs."""
    before = [run.temperature_before_c for run in runs if run.temperature_before_c is not None]
    after = [run.temperature_after_c for run in runs if run.temperature_after_c is not None]
    if not before or not after:
        return "Temperatures are unknown."
    return f"Runs began at {_range(before)} and ended at {_range(after)} degrees Celsius."


def _range(values: list[float]) -> str:
    return f"{figures.number(min(values))} to {figures.number(max(values))}"
