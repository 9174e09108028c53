"""One run, from its spec to a line of results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from statistics import mean
from typing import Any

import torch

import sparse_ext as sx
from examples.example import Example
from sparse_ext.compare import Training
from sparse_ext.compare.arms import Contender, Dense, Size, Sparse
from sparse_ext.machine import describe

from .contenders import DENSE, contenders, method_of
from .plan import Spec, identity
from .tasks import Calibrated

Progress = Callable[[Spec, int, int], None]
# A run and a dense one alternate, so that their seconds are of the same machine: in so many turns, of at least so many steps.
TURNS, TURN_STEPS = 20, 10
DENSE_STEPS = 3  # of the dense one, in a turn


def flops_of_step(task: Example) -> float:
    """Of a dense training step, for each example."""
    model, batch = task.model(), next(task.batches(0))
    return sx.count_flops(lambda: task.loss(model, batch).backward()) / task.samples(batch)


def contender_of(spec: Spec, row: Calibrated) -> Contender:
    """The spec as an arm of a comparison."""
    if spec.method == DENSE:
        return Dense(DENSE)
    own = contenders()[spec.method]
    return Sparse(
        spec.method,
        method=own.method or spec.method,
        choices=asdict(method_of(spec.method, own, row.task)),
        layout=own.layout,
        sparsity=None if own.layout == "2:4" else spec.sparsity,
        init=spec.init or row.task.init,
        exclude=row.task.exclude,
        keeps_layers=own.keeps_layers,
    )


def execute(spec: Spec, row: Calibrated, steps: int, progress: Progress = lambda *done: None) -> dict[str, Any]:
    """Trains, and returns the line of results.

    Args:
        progress: is called with (spec, steps done, steps).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training = Training(row.task, contender_of(spec, row), Size(steps), spec.seed)
        for sentence in training.warnings:
            if not sentence.startswith("sparsify_:"):  # of layers that keep all weights, at low sparsities
                warnings.warn(sentence, stacklevel=2)
        pacer = None if spec.method == DENSE else Training(row.task, Dense(DENSE), Size(1 + TURNS * DENSE_STEPS), spec.seed)
        ratios = _train(training, pacer, lambda step: progress(spec, step, steps))
        return _line(spec, row, training, pacer, ratios)
    finally:
        torch.set_num_threads(threads)


def _line(spec: Spec, row: Calibrated, training: Training, pacer: Training | None, ratios: list[float]) -> dict[str, Any]:
    """What the finished run leaves."""
    steps, share = training.step, training.step / row.task.steps
    if training.broken is not None:
        raise ArithmeticError(f"expected finite losses: {training.broken}")
    timed = pacer or training
    return {
        **identity(spec, row),
        "metric": row.task.metric,
        "steps": steps,
        "score": training.evaluate(),
        "loss": _test_loss(training, row.task),
        # Relative to the dense run of the task's length.
        "flops": training.work.flops / training.samples / flops_of_step(row.task) * share,
        "density": training.work.density_sum / steps,
        "step_s": training.train_s / steps,
        "dense_step_s": timed.train_s / timed.step,
        # Seconds of the whole run, relative to the dense run of the task's length.
        "seconds": mean(ratios) * share,
        **describe("cpu"),
        "settings": asdict(row.task),
    }


def _train(training: Training, pacer: Training | None, progress: Callable[[int], None]) -> list[float]:
    """Seconds per step over the dense one's, of every turn."""
    ratios: list[float] = []
    steps = training.size.steps
    turns = max(1, min(TURNS, steps // TURN_STEPS))
    if pacer is not None:
        pacer.train_until(1)  # the first step is slower
    for turn in range(1, turns + 1):
        own = _seconds_per_step(training, steps * turn // turns)
        ratios.append(1.0 if pacer is None else own / _seconds_per_step(pacer, 1 + DENSE_STEPS * turn))
        progress(training.step)
    return ratios


def _seconds_per_step(training: Training, until: int) -> float:
    """Of the steps that are trained here."""
    step, train_s = training.step, training.train_s
    training.train_until(until)
    return (training.train_s - train_s) / (until - step)


@torch.no_grad()
def _test_loss(training: Training, task: Example) -> float:
    training.model.eval()
    return task.test_loss(training.model, task.test_batches(training.seed))
