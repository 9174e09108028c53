"""`Contender`: one arm as its table in the config says; `Size`: what of it is found before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from sparse_ext.methods import Method

from ..task import Task, offers

if TYPE_CHECKING:
    from ..bench import Bench

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}  # None: without autocast


@dataclass(frozen=True)
class Size:
    """How long an arm trains, and how large it is.

    Attributes:
        steps: of training.
        share: of the usual width, or of the weights of each layer.
        layers: names of the layers that are replaced.
        note: what a reader must know of how it was found.
    """

    steps: int
    share: float = 1.0
    layers: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Contender:
    """One arm.

    Attributes:
        name: of the arm.
        precision: a name in PRECISIONS.
        lr: learning rate; None: the task's.
    """

    KIND: ClassVar[str] = ""

    name: str
    precision: str = "float32"
    lr: float | None = None

    def check(self, task: Task) -> None:
        """ValueError if the task or an argument does not fit."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected {' or '.join(map(repr, PRECISIONS))}, got {self.precision!r}")
        if self.lr is not None and not offers(task.optimizer, "lr"):
            raise ValueError(
                f"lr: expected a task whose optimizer(model, lr=None) takes one, got {type(task).__name__} without"
            )

    def size(self, bench: Bench) -> Size:
        """What is found before training."""
        return Size(bench.steps)

    def model(self, task: Task, size: Size, device: torch.device) -> nn.Module:
        """A new model on the device."""
        return task.model().to(device)

    def optimizer(self, task: Task, model: nn.Module) -> torch.optim.Optimizer:
        """Of the model's parameters."""
        if self.lr is None:
            return task.optimizer(model)
        return task.optimizer(model, lr=self.lr)  # type: ignore[call-arg]

    @property
    def trained_by(self) -> Method | None:
        """The method of a `Sparsifier`; None: there is none."""
        return None

    def is_over(self, scores: Sequence[float], higher_is_better: bool) -> bool:
        """Whether training ends after these scores, one for each evaluation so far."""
        return False

    def about(self, size: Size) -> str:
        """What the arm is, in a sentence."""
        raise NotImplementedError


@dataclass(frozen=True)
class Matched(Contender):
    """An arm that may spend what another one spends.

    Attributes:
        matches: the name of that arm; "": the only one that is sparse.
    """

    MATCHED: ClassVar[str] = ""  # what it shares with that arm

    matches: str = ""
