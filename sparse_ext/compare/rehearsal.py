"""What is found out before a run, on a training of its own that is then thrown away.

The steps of a rehearsal warm up the machine: memory, threads, compiled code. The run itself begins at its first batch, as if
there had been no rehearsal, and every step of it is measured.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from sparse_ext.memory import step_memory
from sparse_ext.report.run import Memory
from sparse_ext.train import count_flops

from .task import moved
from .training import Training


class Rehearsal(NamedTuple):
    """Attributes:
    warm_up_s: of its steps.
    memory: of a step after them.
    planned_flops: of each sample of a training step, a mean over the run, as the method's plan says.
    """

    warm_up_s: float
    memory: Memory
    planned_flops: float


def rehearse(training: Training, steps: int) -> Rehearsal:
    """Trains so many steps; the training cannot be used afterwards."""
    planned = planned_flops(training)
    training.train_until(min(steps, training.size.steps))
    return Rehearsal(training.train_s + training.counting_s, _memory(training), planned)


def _memory(training: Training) -> Memory:
    batch = moved(next(training.batches), training.device)

    def step() -> None:
        training.loss_of(training.model, batch).backward()
        training.optimizer.step()

    sparsifier = training.sparsifier
    kept = [] if sparsifier is None else [one for one in tree_leaves(sparsifier.state_dict()) if isinstance(one, torch.Tensor)]
    with training.random.in_use():
        return step_memory(step, training.model, training.optimizer, kept)


def planned_flops(training: Training) -> float:
    """FLOPs of a training step for each sample, a mean over the run: a forward product, and two of as much in the backward."""
    task, model, sparsifier = training.task, training.model, training.sparsifier
    batch = moved(next(task.batches(training.seed)), training.device)
    with training.random.unchanged():
        args, kwargs = _inputs(training, batch)
        if sparsifier is None:
            with torch.no_grad(), training.autocast():
                flops: float = 3 * count_flops(lambda: model(*args, **kwargs))
        else:
            inputs = inspect.signature(model.forward).bind(*args, **kwargs).arguments if kwargs else args
            with training.autocast():
                flops = count_flops(model, sparsifier, inputs).model.training.planned
    return flops / task.samples(batch)


def _inputs(training: Training, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """With which the loss calls the model."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = training.model.register_forward_pre_hook(lambda model, *call: calls.append(call), with_kwargs=True)
    try:
        with torch.no_grad():
            training.loss_of(training.model, batch)
    finally:
        handle.remove()
    if len(calls) != 1:
        raise ValueError(f"{type(training.task).__name__}.loss: expected it to call the model once, got {len(calls)} calls")
    return calls[0]
