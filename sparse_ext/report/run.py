"""One run of an arm, as plain values: a part of a `Record`, whose module says how units and unknown values are written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """Of one run. `train` includes `updates`, the changes of the pattern; evaluation counts too; the warm-up does not.

    Attributes:
        warm_up: of the steps before the measured ones: compilation, allocation. Excluded from all figures of the run.
    """

    train_s: float
    updates_s: float
    evaluation_s: float
    warm_up_s: float

    @property
    def total_s(self) -> float:
        """Training and evaluation."""
        return self.train_s + self.evaluation_s


@dataclass(frozen=True)
class Energy:
    """Of one run, training, updates and evaluation together.

    Attributes:
        gross_j: as counted. net_j: without what the idle machine would have used in that time.
        per_sample_j: gross_j over the number of training samples.
        why: why something is None; None: nothing is.
    """

    gross_j: float | None
    net_j: float | None
    per_sample_j: float | None
    mean_w: float | None
    estimated: bool
    why: str | None


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a training step, by what they hold. `indices` are where non-zeros are; `total` the peak of all together.

    Attributes:
        optimizer_state: with what a method keeps from step to step, such as a dense momentum.
    """

    weights: int
    indices: int
    gradients: int
    optimizer_state: int
    activations: int
    total: int


@dataclass(frozen=True)
class Point:
    """A run at one evaluation: what it had spent by then, evaluations included, and its score (None: not finite)."""

    step: int
    samples: int
    seconds_s: float
    joules: float | None
    flops: float
    score: float | None


@dataclass(frozen=True)
class DensityPoint:
    """Share of the weights in use, of all layers that may be sparse, from this step on."""

    step: int
    density: float


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        samples: training samples seen.
        score: on the evaluation set, at the end; None: it was not finite.
        flops: executed, as kernels count them. planned_flops: as the method's plan says.
        average_density: mean over the steps.
        coverage: share of positions that were ever in use.
        hardware_days: seconds times devices, in days.
    """

    seed: int
    steps: int
    samples: int
    score: float | None
    seconds: Seconds
    energy: Energy
    flops: float
    planned_flops: float
    memory: Memory
    hardware_days: float
    average_density: float = 1.0
    coverage: float = 1.0
    curve: tuple[Point, ...] = ()
    density: tuple[DensityPoint, ...] = ()
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    stopped_early: bool = False


@dataclass(frozen=True)
class LayerTime:
    """Where the time of a step goes: medians of one layer, at the end of the run. `layout` None: a dense layer of PyTorch."""

    name: str
    shape: tuple[int, ...]
    layout: str | None
    density: float
    forward_s: float
    backward_s: float


@dataclass(frozen=True)
class Stage:
    """A pipeline stage's forward or backward pass at one clock frequency. `instruction` is "forward" or "backward"."""

    stage: int
    instruction: str
    frequency_mhz: int
    time_s: float
    energy_j: float
