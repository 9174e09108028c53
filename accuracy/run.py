"""One run, from its spec to a line of results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, median
from typing import Any

import torch
from torch import nn

import sparse_ext as sx
from examples.arms import Arm, Batch, Run, Task
from sparse_ext.machine import describe
from sparse_ext.methods import Time
from sparse_ext.nn import sparse_layers

from .contenders import DENSE, contenders, method_of
from .plan import Spec, identity
from .tasks import Calibrated

Progress = Callable[[Spec, int, int], None]
# A run and a dense one alternate, so that their seconds are of the same machine: in so many turns, of at least so many steps.
TURNS, TURN_STEPS = 20, 10
DENSE_STEPS = 3  # of the dense one, in a turn


def weights_of(task: Task) -> dict[str, int]:
    """{layer: positions} of those that `sparsify_` may replace."""
    model = task.model()
    names = sx.layer_densities(model, 0.0, exclude=task.exclude)
    return {name: sum(p.numel() for p in model.get_submodule(name).parameters() if p.dim() > 1) for name in names}


def flops_of_step(task: Task) -> float:
    """Of a dense training step, for each example."""
    model, batch = task.model(), next(task.batches(0))
    return sx.count_flops(lambda: task.loss(model, batch).backward()) / len(batch[0])


@dataclass
class MeasuredRun(Run):
    """A run that notes, for each step, the FLOPs that were executed, relative to a dense step, and the density.

    FLOPs are counted once for every state of the layers: nnz, layouts, what is frozen, and whether the step's dense gradient is
    observed. A step that is counted is not timed.

    Attributes:
        hidden_work: count every step.
        work, densities, timed: of every step.
        known: {state: work}, of the states that were counted.
    """

    flops: Any = None
    hidden_work: bool = False
    work: list[float] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    timed: list[bool] = field(default_factory=list)
    known: dict[Any, float] = field(default_factory=dict)
    state: Any = None

    def __post_init__(self) -> None:
        self.positions = weights_of(self.task)  # before the seed is set: makes models of its own
        self.dense_flops = flops_of_step(self.task)
        super().__post_init__()
        self.layers = sparse_layers(self.model)

    def spent(self) -> float:
        """FLOPs relative to a whole dense run's."""
        return sum(self.work) / self.task.steps

    def prepare(self) -> None:
        layers = tuple((layer.nnz, layer.layout, layer.chosen_by) for layer in self.layers.values())
        observes = self.arm.method is not None and self.arm.method.observes(Time(self.step + 1, self.arm.steps))
        self.state = (layers, observes, tuple(p.requires_grad for p in self.model.parameters()))
        self.timed.append(self.state in self.known and not self.hidden_work)
        self.densities.append(self._density())

    def forward_backward(self, batch: Batch) -> None:
        if self.timed[-1]:
            super().forward_backward(batch)
        else:
            flops = sx.count_flops(lambda: super(MeasuredRun, self).forward_backward(batch))
            self.known[self.state] = flops / len(batch[0]) / self.dense_flops
        self.work.append(self.known[self.state])

    def _density(self) -> float:
        """Of all layers that could be sparse."""
        kept = sum(self.layers[name].nnz if name in self.layers else size for name, size in self.positions.items())
        return kept / sum(self.positions.values())

    def seconds_since(self, step: int) -> list[float]:
        """Of the steps from there on that were timed."""
        return [s for s, timed in zip(self.seconds[step:], self.timed[step:], strict=True) if timed]


def arm_of(spec: Spec, row: Calibrated, steps: int) -> Arm:
    if spec.method == DENSE:
        return Arm(DENSE, None, steps, row.task.lr if steps >= row.task.steps else row.task.short_lr)
    contender = contenders()[spec.method]
    method = method_of(spec.method, contender, row.task)
    return Arm(
        spec.method, method, steps, row.task.lr, contender.layout, sparsity=spec.sparsity, keeps_layers=contender.keeps_layers
    )


def execute(spec: Spec, row: Calibrated, steps: int, progress: Progress = lambda *told: None) -> dict[str, Any]:
    """Trains, and returns the line of results.

    Args:
        progress: hears (spec, steps done, steps).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="sparsify_:")  # of layers that keep all weights, at low sparsities
            run, pacer = _runs(spec, row, steps)
        ratios, dense_s = _train(run, pacer, lambda step: progress(spec, step, steps))
        return _line(spec, row, run, ratios, dense_s)
    finally:
        torch.set_num_threads(threads)


def _line(spec: Spec, row: Calibrated, run: MeasuredRun, ratios: list[float], dense_s: list[float]) -> dict[str, Any]:
    """What the finished run leaves."""
    score, timed, steps = run.measure(), run.seconds_since(0), run.arm.steps
    return {
        **identity(spec, row),
        "metric": row.task.metric,
        "steps": steps,
        "score": score,
        "loss": _test_loss(run.model, row.task, spec.seed),
        "flops": run.spent(),
        "density": mean(run.densities),
        "step_s": median(timed) if timed else None,
        "dense_step_s": median(dense_s) if dense_s else None,
        # Seconds of the whole run, relative to the dense run of the task's length.
        "seconds": mean(ratios) * steps / row.task.steps if ratios else None,
        **describe("cpu"),
        "settings": asdict(row.task),
    }


def _runs(spec: Spec, row: Calibrated, steps: int) -> tuple[MeasuredRun, Run | None]:
    """The run, and the dense one that is timed beside it."""
    task = replace(row.task, init=spec.init or row.task.init)
    if spec.method == DENSE:
        return MeasuredRun(task, arm_of(spec, row, steps), spec.seed), None
    dense = Arm(DENSE, None, TURNS * DENSE_STEPS, task.lr)
    pacer = Run(task, dense, spec.seed, None)  # type: ignore[arg-type]
    hidden = contenders()[spec.method].hidden_work
    return MeasuredRun(task, arm_of(spec, row, steps), spec.seed, hidden_work=hidden), pacer


def _train(run: MeasuredRun, pacer: Run | None, progress: Callable[[int], None]) -> tuple[list[float], list[float]]:
    """Seconds per step over the dense one's, of every turn, and the seconds of the dense steps."""
    ratios: list[float] = []
    steps = run.arm.steps
    turns = max(1, min(TURNS, steps // TURN_STEPS))
    for turn in range(1, turns + 1):
        begin = run.step
        run.train_until(steps * turn // turns)
        if pacer is not None:
            pacer.train_until(DENSE_STEPS * turn)
            if timed := run.seconds_since(begin):
                ratios.append(mean(timed) / mean(pacer.seconds[-DENSE_STEPS:]))
        progress(run.step)
    if pacer is None:
        return [1.0], run.seconds_since(0)
    return ratios, pacer.seconds[1:]


@torch.no_grad()
def _test_loss(model: nn.Module, task: Task, seed: int) -> float:
    model.eval()
    return task.test_loss(model, seed)
