"""`Record`: all that a comparison found, as plain values. Its JSON is what every page, table and export is made of.

Units stand in the names: _s seconds, _j joules, _w watts, _c degrees Celsius, _mhz megahertz. Bytes and FLOPs have none.
What is unknown is None, never 0, and a sentence beside it says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .run import LayerTime, Run, Stage

FORMAT = 1  # of the JSON; a reader refuses others

# What an arm may save, each with a verdict of its own.
QUANTITIES = ("seconds", "flops", "joules", "bytes")

SAVED, SAVED_WITH_LOSS, NOT_SAVED, UNKNOWN = "saved at equal quality", "saved with a quality loss", "not saved", "unknown"
OUTCOMES = (SAVED, SAVED_WITH_LOSS, NOT_SAVED, UNKNOWN)


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval (Student's t over the repeats). Of ratios it is the geometric mean.

    Attributes:
        low, high: None where there was one repeat only.
        count: number of repeats.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Metric:
    """What is judged.

    Attributes:
        name: such as "bits per character".
        tolerance: by how much a mean may be worse and still count as equal quality, in its units; declared beforehand.
    """

    name: str
    higher_is_better: bool
    tolerance: float


@dataclass(frozen=True)
class Machine:
    """Where it ran. `device` is "cpu" or "cuda:0"; `devices` how many of them."""

    device: str
    devices: int
    cpu: str
    isa: str
    cores: int
    threads: int
    memory_bytes: int | None
    os: str
    gpu: str | None = None
    gpu_uuid: str | None = None
    driver: str | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True)
class Sensor:
    """What measured the energy.

    Attributes:
        source: such as "NVML energy counter".
        scope: what it covers: GPU, module, package, DRAM.
        resolution_j: the smallest step of the counter. period_s: how often it moves.
        estimated: whether joules are integrated or modelled, not counted.
    """

    source: str
    scope: str
    resolution_j: float | None
    period_s: float | None
    estimated: bool


@dataclass(frozen=True)
class Idle:
    """The machine at rest. `when` is "before" or "after"."""

    when: str
    seconds_s: float
    joules: float | None
    mean_w: float | None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an arm saved something, beside the reference.

    Attributes:
        outcome: one of OUTCOMES.
        ratio: the arm's over the reference's, paired by seed, below 1 where it spent less; None: unknown.
        sentence: the verdict in words, with its figures.
    """

    outcome: str
    ratio: Interval | None
    sentence: str


@dataclass(frozen=True)
class Target:
    """What an arm had spent when an evaluation first was within the tolerance of the reference's mean score.

    Attributes:
        score: what was to be reached.
        reached: number of runs that did so.
        seconds, flops, joules: over the runs; None where `why` says why, such as a run that never reached it.
    """

    score: float
    reached: int
    seconds: Interval | None
    flops: Interval | None
    joules: Interval | None
    why: str | None


@dataclass(frozen=True)
class Arm:
    """One contender.

    Attributes:
        kind: a name of compare's table of arms: "dense", "sparse", "equal seconds", ...
        about: what it is, in a sentence.
        method, choices, layout, sparsity: of a sparse arm; None for others.
        precision: "float32" or "bfloat16".
        matches: the arm whose FLOPs or seconds it may spend; None: no other's.
        matched: what it shares with that arm: "flops" or "seconds".
        score: over the runs; None: one was not finite.
        loss: by how much it is worse than the reference, paired by seed; negative: better. None for the reference itself.
        target: None where the reference has no mean score.
        verdicts: {one of QUANTITIES: verdict}; empty for the reference.
        stages: for a planner of clock frequencies; empty where `stages_why` says why.
    """

    name: str
    kind: str
    about: str
    precision: str
    runs: tuple[Run, ...]
    method: str | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    layout: str | None = None
    sparsity: float | None = None
    matches: str | None = None
    matched: str | None = None
    layers: tuple[LayerTime, ...] = ()
    stages: tuple[Stage, ...] = ()
    stages_why: str | None = None
    score: Interval | None = None
    loss: Interval | None = None
    target: Target | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A whole comparison.

    Attributes:
        created: UTC, as ISO 8601.
        entry: "module:function" of the task.
        config: as it was read.
        versions: of Python, torch, sparse_ext, CUDA; `commit` of the user's repository. None where unknown.
        sensor: None where nothing measures energy here, and `sensor_why` says why.
        idle: before and after.
        arms: the first one is the reference, the dense network.
        headline: sentences; the first says what the reader must know first.
        notes: what a reader should know of how it was measured.
        format: of the JSON.
    """

    title: str
    created: str
    entry: str
    config: dict[str, Any]
    machine: Machine
    versions: dict[str, str | None]
    metric: Metric
    sensor: Sensor | None
    sensor_why: str | None
    idle: tuple[Idle, ...]
    arms: tuple[Arm, ...]
    headline: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT
