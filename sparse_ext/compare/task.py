"""`Task`: what a comparison trains. A user writes one, and names the function that makes it as "module:function"."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_ext.entry import function_named

from .randomness import Randomness

Batch = Any  # a tensor; or a tuple, list or mapping of such


class Task(ABC):
    """Data, model, optimizer, schedule, loss and score: all that the arms of a comparison share.

    Tensors may be on the CPU: models and batches are moved to the comparison's device. Two abilities are optional, and each is
    asked for by one kind of arm:

    - `model(width=1.0)`: a smaller network, of this share of the usual width, in (0, 1]. The task may round it. For "narrower".
    - `optimizer(model, lr=None)`: another learning rate than the usual one. For arms with `lr`.

    Attributes:
        metric: what `score` is, with its unit, such as "accuracy %".
        higher_is_better: whether a larger score is better.

    Example:
        class Squares(Task):
            metric, higher_is_better = "mean squared error", False

            def model(self):
                return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 1))

            def optimizer(self, model):
                return torch.optim.Adam(model.parameters(), lr=1e-3)

            def batches(self, seed):
                numbers = torch.Generator().manual_seed(seed)
                while True:
                    x = torch.randn(64, 16, generator=numbers)
                    yield x, x.square().mean(1, keepdim=True)

            def test_batches(self, seed):
                return [next(self.batches(10_000 + seed))]

            def loss(self, model, batch):
                return nn.functional.mse_loss(model(batch[0]), batch[1])

            def score(self, model, batches):
                return sum(self.loss(model, batch).item() for batch in batches)

        def task():  # named in the config: task = "squares:task"
            return Squares()
    """

    metric: str
    higher_is_better: bool

    @abstractmethod
    def model(self) -> nn.Module:
        """A new dense model. It may use PyTorch's global random generator, which is seeded before."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer of all the model's parameters."""

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler | None:
        """The learning rate's schedule over `steps` steps; its `step()` is called after each. None: the rate is constant."""
        return None

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Training batches without end: of one seed always the same, by a random generator of their own."""

    @abstractmethod
    def test_batches(self, seed: int) -> Iterable[Batch]:
        """Data that is not trained on, the same for all arms of a seed: a list, or what else can be gone through again."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a training batch, to be differentiated. It calls the model once."""

    @abstractmethod
    def score(self, model: nn.Module, batches: Iterable[Batch]) -> float:
        """The metric on `test_batches`, which can be gone through once; the model is in `eval()`, without gradients."""

    def samples(self, batch: Batch) -> int:
        """How many examples a batch has: the length of its first tensor."""
        return len(next(tensors_of(batch)))


def tensors_of(batch: Batch) -> Iterator[torch.Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_of(part)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def fingerprint(batch: Batch) -> str:
    """A hash of all values of a batch."""
    found = sha256()
    for tensor in tensors_of(batch):
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def offers(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function of the task takes this optional argument."""
    return argument in inspect.signature(function).parameters


def load(entry: str, arguments: Mapping[str, Any]) -> Task:
    """What the task's function makes of these arguments. Modules of the current folder are found, too.

    Raises:
        ValueError, TypeError: there is no such function, or it makes no task; the sentence says what was expected.
    """
    function = function_named(entry, "task")
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"arguments: expected those that {entry} takes, got {dict(arguments)}: {error}") from error
    task = function(**arguments)
    check(task, entry)
    return task


def source_of(task: Task) -> str | None:
    """A hash of the file that a task's class is in; None: there is none. Another task's results are not this one's."""
    try:
        path = inspect.getsourcefile(type(task))
    except TypeError:  # made in an interactive session
        return None
    return None if path is None or not Path(path).exists() else sha256(Path(path).read_bytes()).hexdigest()


def check(task: Any, entry: str) -> None:
    """TypeError or ValueError unless this is a task whose batches are the same, whatever happens between."""
    if not isinstance(task, Task):
        raise TypeError(f"task: expected {entry} to return a sparse_ext.compare.Task, got {type(task).__name__}")
    for name, kind in (("metric", str), ("higher_is_better", bool)):
        if not isinstance(found := getattr(task, name, None), kind):
            raise TypeError(f"task: expected {entry}'s {name} to be of type {kind.__name__}, got {found!r}")
    _check_batches(task, entry)
    _check_test_batches(task, entry)


def _check_batches(task: Task, entry: str) -> None:
    """Arms take turns: batches that depend on what another one has drawn, from any generator, would differ."""
    first, second = _in_turns(task)
    if len(first) < 2:
        raise ValueError(f"task: expected batches without end from {entry}, got {len(first)}")
    one, other = ([tensor for batch in some for tensor in tensors_of(batch)] for some in (first, second))
    if not one:
        raise TypeError(f"task: expected batches with tensors from {entry}, got {type(first[0]).__name__} without")
    if len(one) != len(other) or not all(map(_same, one, other)):
        raise ValueError(
            f"task: expected the same batches of {entry} whenever they are asked for with the same seed, got others; make a "
            "torch.Generator in batches(seed), seeded by it"
        )


def _check_test_batches(task: Task, entry: str) -> None:
    """An iterator would be empty at the second evaluation."""
    found = task.test_batches(0)
    if isinstance(found, Iterator) or not isinstance(found, Iterable):
        raise TypeError(f"task: expected test_batches of {entry} as a list, got {type(found).__name__}")


def _in_turns(task: Task) -> tuple[list[Batch], list[Batch]]:
    """Two batches at most of each of two arms, whose global generators differ."""
    arms = [(task.batches(0), Randomness(global_seed), list[Batch]()) for global_seed in (1, 2)]
    for _ in range(2):
        for batches, random, seen in arms:
            with random.in_use():
                seen += islice(batches, 1)
    return arms[0][2], arms[1][2]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(one.isclose(other, rtol=0, atol=0, equal_nan=True).all())
