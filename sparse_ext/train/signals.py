"""Signals: what is kept of a layer's dense weight gradient between updates, for a method to rank positions by.

SIGNALS is the table of those that methods can name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch


class Signal(ABC):
    """What is kept of one layer's dense gradient.

    A subclass makes its state in `start`, tensors [rows, cols] as attributes, which go with checkpoints, and defines `observe`
    and `score`.

    Attributes:
        name: what a method's `grow_by` and `keep_by` call it.
        method: the one that asked for it; its fields are the hyper-parameters.
        STREAMS: whether its score, after it has observed a single step, is that step's gradient. Growth can then choose from
            the gradient of a single backward pass while it is computed, and nothing dense is kept.
    """

    name: ClassVar[str]
    STREAMS: ClassVar[bool] = False

    def __init__(self, rows: int, cols: int, dtype: torch.dtype, device: torch.device, method: Any = None) -> None:
        """For a [rows, cols] matrix; dtype: of gradients that it observes (float32; float64 for float64)."""
        self.rows, self.cols, self.dtype, self.device, self.method = rows, cols, dtype, device, method
        self.start()

    def zeros(self) -> torch.Tensor:
        """A new tensor for sums of gradients, [rows, cols]."""
        return torch.zeros(self.rows, self.cols, dtype=self.dtype, device=self.device)

    def start(self) -> None:  # noqa: B027
        """Makes the state of a signal that has observed nothing."""

    @abstractmethod
    def observe(self, tile: torch.Tensor, rows: range) -> None:
        """Takes in one step's gradient: a tile of whole rows, [len(rows), cols], or several tiles in ascending order.

        It is summed over micro-batches and ranks, finite, and the signal's own to keep.
        """

    @abstractmethod
    def score(self) -> torch.Tensor:
        """[rows, cols]; positions are ranked by its magnitude."""

    def updated(self) -> None:  # noqa: B027
        """The layer has just been changed by this signal, or what was observed is not to be used."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of its tensors."""
        return {key: value.clone() for key, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """What `state_dict` gave; ValueError unless every tensor has the matrix's shape."""
        for key, value in state.items():
            if value.shape != (self.rows, self.cols):
                raise ValueError(f"{self.name}: expected {key} of shape {(self.rows, self.cols)}, got {tuple(value.shape)}")
        vars(self).update({key: value.to(self.device, copy=True) for key, value in state.items()})


class GradientSum(Signal):
    """The gradient, summed over the observed steps before its magnitude is taken (Evci et al. 2020, RigL: one step)."""

    name = "gradient"
    STREAMS = True

    def start(self) -> None:
        self.total: torch.Tensor | None = None

    def observe(self, tile: torch.Tensor, rows: range) -> None:
        if self.total is None and len(rows) == self.rows:
            self.total = tile
            return
        if self.total is None:
            self.total = self.zeros()
        self.total[rows.start : rows.stop] += tile

    def score(self) -> torch.Tensor:
        return self.zeros() if self.total is None else self.total

    def updated(self) -> None:
        self.total = None


SIGNALS: dict[str, type[Signal]] = {GradientSum.name: GradientSum}


def signal_classes(signals: tuple[str | type[Any], ...]) -> dict[str, type[Signal]]:
    """{name: class} of what a method names; ValueError names the signals that there are."""
    found: dict[str, type[Signal]] = {}
    for signal in signals:
        kind = SIGNALS.get(signal) if isinstance(signal, str) else signal
        if kind is None:
            raise ValueError(f"expected signals among {', '.join(map(repr, SIGNALS))}, or classes, got {signal!r}")
        found[kind.name] = kind
    return found
