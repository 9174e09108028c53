"""`Training`: one arm in training with one seed; the only training loop of comparisons, examples and `make accuracy`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from sparse_ext.train import Sparsifier

from .arms import PRECISIONS, Contender, Size, Sparse
from .randomness import CPU, Randomness
from .task import Batch, Task, moved
from .work import Work, positions_of

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """The time in seconds, once the device has done what it was told before."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class Training:
    """One arm in training with one seed. Its random numbers are its own: it disturbs no other.

    Seconds are those of whole loops: batches, forward, backward, optimizer, schedule, Sparsifier; not those of counting FLOPs.

    Args:
        clock: the time; None: the device's.

    Attributes:
        model, optimizer, scheduler, sparsifier: as trained; the last two may be None.
        warnings: those that building them gave, as texts.
        step, samples: done so far.
        train_s, updates_s, evaluation_s: seconds so far; the second ones are a part of the first.
        counting_s: in which FLOPs were counted.
        batch: the last one; None: there was none yet.
        broken: why training has ended before its time; None: it has not.
    """

    def __init__(
        self,
        task: Task,
        contender: Contender,
        size: Size,
        seed: int,
        device: torch.device = CPU,
        clock: Clock | None = None,
    ) -> None:
        self.task, self.contender, self.size, self.seed, self.device = task, contender, size, seed, device
        self.clock = clock or clock_of(device)
        self.random = Randomness(seed, device)
        self.step = self.samples = 0
        self.train_s = self.updates_s = self.evaluation_s = self.counting_s = 0.0
        self.broken: str | None = None
        self.batch: Batch = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with self.random.in_use():
                self._build()
        self.warnings = tuple(str(one.message) for one in caught)
        self._lost = torch.zeros((), dtype=torch.bool, device=device)  # whether a loss was not finite

    def _build(self) -> None:
        contender, method = self.contender, self.contender.trained_by
        with self.random.unchanged():
            positions = positions_of(self.task.model(), contender.exclude) if isinstance(contender, Sparse) else {}
        self.model: nn.Module = contender.model(self.task, self.size, self.device)
        self.optimizer = contender.optimizer(self.task, self.model)
        self.sparsifier: Sparsifier | None = None
        if method is not None:
            self.sparsifier = Sparsifier(self.model, self.optimizer, method, total_steps=self.size.steps, seed=self.seed)
        self.scheduler = self.task.scheduler(self.optimizer, self.size.steps)
        self.batches, self.test_batches = self.task.batches(self.seed), self.task.test_batches(self.seed)
        self.work = Work(self, positions)

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.broken is not None or self.step == self.size.steps

    # ---- steps ----------------------------------------------------------------------------------------------------------

    def train_until(self, step: int) -> None:
        """Trains until so many steps are done in all, unless a loss is not finite."""
        with self.random.in_use():
            begin, counting = self.clock(), self.counting_s
            while self.step < step:
                self._train_step()
            self.train_s += self.clock() - begin - (self.counting_s - counting)
        if self.broken is None and bool(self._lost):
            self.broken = f"a loss was not finite, at step {self.step} or shortly before"

    def _train_step(self) -> None:
        """Ordinary training; `sparsifier.step()` is the only line that a dense loop does not have."""
        batch = self._next_batch()
        self._account(batch)
        loss = self.loss_of(self.model, batch)
        loss.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.sparsifier is not None:
            self._update(self.sparsifier)
        self.optimizer.zero_grad(set_to_none=True)
        self._lost |= ~loss.detach().isfinite()
        self.step += 1
        self.samples += self.task.samples(batch)

    def _next_batch(self) -> Batch:
        try:
            self.batch = moved(next(self.batches), self.device)
        except StopIteration:
            raise ValueError(
                f"{type(self.task).__name__}.batches: expected batches without end, got {self.step}; begin anew after the last"
            ) from None
        return self.batch

    def _account(self, batch: Batch) -> None:
        if self.work.knows(self.step, batch):
            self.work.add(self.step, batch)
            return
        begin = self.clock()
        self.work.add(self.step, batch)
        self.counting_s += self.clock() - begin

    def _update(self, sparsifier: Sparsifier) -> None:
        if not self.work.kind(self.step).updates:
            sparsifier.step()
            return
        begin = self.clock()
        sparsifier.step()
        self.updates_s += self.clock() - begin

    def loss_of(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The task's loss in the arm's precision."""
        with self.autocast():
            return self.task.loss(model, batch)

    def autocast(self) -> AbstractContextManager[Any]:
        """In which a model of this arm is called."""
        dtype = PRECISIONS[self.contender.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    # ---- evaluation -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> float:
        """The score on the test batches."""
        with self.random.in_use(), self.autocast():
            begin = self.clock()
            self.model.eval()
            batches = (moved(batch, self.device) for batch in self.test_batches)
            score = float(self.task.score(self.model, batches))
            self.model.train()
            self.evaluation_s += self.clock() - begin
        return score

    # ---- resuming -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs, for `torch.save`."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {
            **{name: None if part is None else part.state_dict() for name, part in parts.items()},
            **{name: getattr(self, name) for name in SUMS},
            "random": self.random.state,
            "lost": self._lost.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes a training, of the same arguments, that has not begun."""
        for name in PARTS:
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(state[name])
        for name in SUMS:
            setattr(self, name, state[name])
        self._lost = state["lost"].to(self.device)
        for _ in range(self.step):
            self._next_batch()
        self.random.state = state["random"]


PARTS = ("model", "optimizer", "scheduler", "sparsifier", "work")  # in this order: a Sparsifier looks at the other two
SUMS = ("step", "samples", "train_s", "updates_s", "evaluation_s", "counting_s", "broken")
