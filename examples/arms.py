"""What is compared, and the training loop: every arm sees the same batches, and the arms of a seed train in turns.

Turns of a few steps, A B A B, are what makes the seconds per step comparable on a machine that others use too.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median
from typing import Any

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.memory import bytes_of, index_tensors
from sparse_ext.methods import LayerNumbers, Method, Switch, Time

Batch = tuple[torch.Tensor, torch.Tensor]
TURNS = 40  # of all arms, over a run
SCORES = 10  # points on a curve
WARM_UP = 5  # steps


@dataclass(frozen=True)
class Task(ABC):
    """Data, model and hyper-parameters; frozen, so `dataclasses.replace` makes a shorter one.

    Attributes:
        steps, lr: of the dense and the sparse arms. short_lr: of the dense arm that gets the sparse arm's FLOPs only.
        nm24_lr: of all arms where 2:4 is trained: sampled gradients are noisier, and do not stand the largest steps.
        update_interval, gradient_steps: RigL's. init: of the sparse layers. exclude: layers that stay dense.
        caveat: what a reader of the table must know.
    """

    name: str
    metric: str
    higher_is_better: bool
    sparsity: float
    steps: int
    seeds: int
    lr: float
    short_lr: float
    nm24_lr: float
    update_interval: int
    gradient_steps: int = 1
    init: str = "variance"
    exclude: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def rigl(self) -> sx.RigL:
        return sx.RigL(update_interval=self.update_interval, gradient_steps=self.gradient_steps)

    @abstractmethod
    def model(self) -> nn.Module:
        """A new dense model."""

    @abstractmethod
    def optimizer(self, model: nn.Module, lr: float) -> torch.optim.Optimizer: ...

    @abstractmethod
    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler: ...

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Training batches without end."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor: ...

    @abstractmethod
    def test_batches(self, seed: int) -> list[Batch]:
        """Data the model has not seen, the same for all arms of a seed."""

    @abstractmethod
    def score(self, model: nn.Module, seed: int) -> float:
        """The metric on `test_batches`."""

    def test_loss(self, model: nn.Module, seed: int) -> float:
        """The loss on `test_batches`."""
        losses = [self.loss(model, batch).item() for batch in self.test_batches(seed)]
        return sum(losses) / len(losses)


@dataclass(frozen=True)
class Arm:
    """One contender: method None is the dense network, sparsity None the task's.

    keeps_layers: the method trains the dense layers as they are, without `sparsify_`.
    """

    name: str
    method: Any = None
    steps: int = 0
    lr: float = 0.0
    layout: str = "auto"
    sparsity: float | None = None
    keeps_layers: bool = False


@dataclass
class Result:
    """What one arm did with one seed.

    Attributes:
        step_s: median seconds per step. train_s: all steps together, topology updates included, scores not.
        state_bytes: parameters, gradients and optimizer state. index_bytes: where the non-zeros are.
        flops: of the whole training, the dense gradients of observed steps included.
        curve: (step, training FLOPs so far, metric).
    """

    arm: str
    seed: int
    steps: int
    score: float
    step_s: float
    train_s: float
    state_bytes: int
    index_bytes: int
    flops: float
    curve: list[tuple[int, float, float]]


def zeros_of(task: Task, arm: Arm) -> float:
    return task.sparsity if arm.sparsity is None else arm.sparsity


def build(task: Task, arm: Arm) -> tuple[nn.Module, torch.optim.Optimizer, sx.Sparsifier | None]:
    """Model and optimizer; the three lines that make them sparse are here."""
    model = task.model()
    if arm.method is not None and not arm.keeps_layers:
        sparsity = None if arm.layout == "2:4" else zeros_of(task, arm)
        sx.sparsify_(model, sparsity, layout=arm.layout, method=arm.method, init=task.init, exclude=task.exclude)
    optimizer = task.optimizer(model, arm.lr)
    if arm.method is None:
        return model, optimizer, None
    return model, optimizer, sx.Sparsifier(model, optimizer, arm.method, total_steps=arm.steps)


class Flops:
    """FLOPs of an arm's training after any number of steps, from counting one step of each kind: plain, observed, dense."""

    def __init__(self, task: Task, arm: Arm) -> None:
        self._arm, self._method = arm, arm.method or sx.Static()
        keeps_dense = self._method.dense_weight
        self._plain = _step_flops(task, arm if keeps_dense or not arm.method else replace(arm, method=sx.Static()))
        self._observed = self._plain
        if isinstance(arm.method, sx.RigL):  # updated every step, so observed from the first
            self._observed = _step_flops(task, replace(arm, method=sx.RigL(update_interval=1)))
        self._dense = _step_flops(task, Arm("dense", lr=arm.lr)) if keeps_dense else 0

    def after(self, steps: int) -> float:
        """Forward and backward of that many steps."""
        kinds = [self._of(step) for step in range(1, steps + 1)]
        return float(sum(kinds))

    def _of(self, step: int) -> int:
        if _trains_densely(self._method, Time(step - 1, self._arm.steps)):
            return self._dense
        return self._observed if self._method.observes(Time(step, self._arm.steps)) else self._plain


def _trains_densely(method: Method, time: Time) -> bool:
    """Whether the method has its layers stored in the layout "dense" from then on."""
    layer = LayerNumbers(1, 1, 1, "2:4", method.dense_weight, count=lambda: 1, total=lambda signal: 0.0)
    return Switch("dense") in method.plan({"layer": layer}, time).values()


def _step_flops(task: Task, arm: Arm) -> int:
    """Counted on a model of its own."""
    model, _, _sparsifier = build(task, arm)
    batch = next(task.batches(0))
    return sx.count_flops(lambda: task.loss(model, batch).backward())


def nm24_arms(task: Task) -> list[Arm]:
    """Dense, and every way to train 2:4: FST, S-STE and SR-STE with a dense weight, RigL with a packed one."""
    methods = {"FST": sx.FST(), "S-STE": sx.SSTE(), "SR-STE": sx.SRSTE(), "RigL, packed": task.rigl}
    dense = Arm("dense", None, task.steps, task.nm24_lr)
    return [dense, *(Arm(name, method, task.steps, task.nm24_lr, "2:4") for name, method in methods.items())]


def csr_arms(task: Task) -> list[Arm]:
    """The five arms. Two dense ones may spend what RigL, the dearer of the sparse ones, spends: in FLOPs, and in seconds."""
    dense, rigl = Arm("dense", None, task.steps, task.lr), Arm("RigL", task.rigl, task.steps, task.lr)
    by_flops = Flops(task, rigl).after(task.steps) / Flops(task, dense).after(task.steps)
    by_seconds = relative_seconds(task, rigl, dense)
    return [
        dense,
        Arm("dense, equal FLOPs", None, ceil(task.steps * by_flops), task.short_lr),
        Arm("dense, equal seconds", None, ceil(task.steps * by_seconds), task.lr if by_seconds > 0.5 else task.short_lr),
        Arm("static", sx.Static(), task.steps, task.lr),
        rigl,
    ]


def relative_seconds(task: Task, one: Arm, other: Arm) -> float:
    """Seconds per step of one arm over another's, on this machine now: in turns, the steps from one update to the next."""
    runs = [Run(task, arm, 0, Flops(task, arm)) for arm in (one, other)]
    for end in range(1, WARM_UP + task.update_interval + 1):
        for run in runs:
            run.train_until(end)
    a, b = (sum(run.seconds[WARM_UP:]) for run in runs)
    return a / b


@dataclass
class Run:
    """One arm in training with one seed."""

    task: Task
    arm: Arm
    seed: int
    flops: Flops
    step: int = 0
    seconds: list[float] = field(default_factory=list)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    bytes: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model, self.optimizer, self.sparsifier = build(self.task, self.arm)
        self.scheduler = self.task.scheduler(self.optimizer, self.arm.steps)
        self.batches = self.task.batches(self.seed)

    def train_until(self, step: int) -> None:
        """Ordinary training; `sparsifier.step()` is the only line a dense loop does not have."""
        while self.step < step:
            batch = next(self.batches)
            self.prepare()
            begin = time.perf_counter()
            self.forward_backward(batch)
            self.optimizer.step()
            self.scheduler.step()
            if self.sparsifier is not None:
                self.sparsifier.step()
            if self.step == 0:
                self.bytes = (_state_bytes(self.model, self.optimizer), bytes_of(index_tensors(self.model)))
            self.optimizer.zero_grad(set_to_none=True)
            self.seconds.append(time.perf_counter() - begin)
            self.step += 1

    def prepare(self) -> None:
        """Before a step, not timed."""

    def forward_backward(self, batch: Batch) -> None:
        self.task.loss(self.model, batch).backward()

    @torch.no_grad()
    def measure(self) -> float:
        """Adds a point to the curve."""
        self.model.eval()
        score = self.task.score(self.model, self.seed)
        self.model.train()
        self.curve.append((self.step, self.spent(), score))
        return score

    def spent(self) -> float:
        """Training FLOPs so far."""
        return self.flops.after(self.step)

    def result(self) -> Result:
        """Of the finished run: the score is the last one, not the best."""
        return Result(
            self.arm.name, self.seed, self.step, self.curve[-1][2], median(self.seconds), sum(self.seconds),
            *self.bytes, self.curve[-1][1], self.curve,
        )  # fmt: skip


def train(task: Task, arms: list[Arm], seed: int, progress: Callable[[Run], None]) -> list[Result]:
    """Trains all arms with one seed, in turns; `progress` hears of every turn."""
    runs = [Run(task, arm, seed, Flops(task, arm)) for arm in arms]
    for turn in range(1, TURNS + 1):
        for run in runs:
            run.train_until(run.arm.steps * turn // TURNS)
            if turn % (TURNS // SCORES) == 0:
                run.measure()
            progress(run)
    return [run.result() for run in runs]


def _state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Parameters, gradients and optimizer state as they are in memory."""
    tensors = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
