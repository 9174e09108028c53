"""`Signal`: a statistic of a layer's dense weight gradient, kept between updates, by which a method ranks positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from .view import LayerView


class Signal(ABC):
    """A statistic of one layer's dense gradient. A subclass defines `start`, `observe` and `score`.

    Its state is tensors [rows, cols] in attributes, which `start` creates. Checkpoints contain them.

    Attributes:
        name: how a method's `grow_by` and `keep_by` refer to it.
        method: the method that uses it; its fields are the hyper-parameters.
        layer: weight(), mask() and gradient() of the layer as they are now, each [rows, cols], see `LayerView`.
        OBSERVES: whether it observes dense gradients. One that does not needs no `observe`; its score is asked for at updates.
        READS_GRADIENT: whether its score uses `layer.gradient()`: what the optimizer's step has left in `weight.grad`.
        SKIPS: whether a step whose gradient is not finite is left out, as one of many. Otherwise the update waits until its
            steps have been observed anew.
        STREAMS: whether the score after a single observed step is that step's gradient. Then growth can choose positions while
            the gradient is computed, and nothing dense is kept.

    Example:
        class Smoothed(Signal):  # an exponential average; a method names it by `signals = (Smoothed,)`
            name = "smoothed"
            def start(self): self.mean = self.zeros()
            def observe(self, tile, rows): self.mean[rows.start : rows.stop].lerp_(tile, 0.1)
            def score(self): return self.mean
    """

    name: ClassVar[str]
    STREAMS: ClassVar[bool] = False
    OBSERVES: ClassVar[bool] = True
    READS_GRADIENT: ClassVar[bool] = False
    SKIPS: ClassVar[bool] = False

    layer: LayerView

    def __init__(self, rows: int, cols: int, dtype: torch.dtype, device: torch.device, method: Any = None) -> None:
        """A signal for a [rows, cols] weight matrix.

        Args:
            dtype: of the gradients that it observes: float64 for float64 weights, otherwise float32.
        """
        self.rows, self.cols, self.dtype, self.device, self.method = rows, cols, dtype, device, method
        self.start()

    def zeros(self) -> torch.Tensor:
        """A new tensor for sums of gradients, [rows, cols]."""
        return torch.zeros(self.rows, self.cols, dtype=self.dtype, device=self.device)

    def start(self) -> None:  # noqa: B027
        """Makes the state of a signal that has observed nothing."""

    def observe(self, tile: torch.Tensor, rows: range) -> None:  # noqa: B027
        """Adds one step's gradient to the state. It is finite, and already summed over micro-batches and ranks.

        Args:
            tile: [len(rows), cols]. The signal may keep or change this tensor.
            rows: the rows that the tile holds. A step comes as one tile, or as several in ascending order.
        """

    @abstractmethod
    def score(self) -> torch.Tensor:
        """The score [rows, cols]; its magnitude ranks the positions."""

    def is_ready(self) -> bool:
        """Whether there is a score now: if not, the layer keeps its pattern at this update."""
        return True

    def updated(self) -> None:  # noqa: B027
        """Called after the layer's update, and when the observed steps are to be discarded."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of its tensors."""
        return {key: value.clone() for key, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state_dict` returned; ValueError unless these are its tensors, and without NaN."""
        held = {key for key, value in vars(self).items() if isinstance(value, torch.Tensor)}
        may_hold = held | {key for key, value in vars(self).items() if value is None and key != "method"}
        if not held <= state.keys() <= may_hold:
            expected, got = (", ".join(sorted(keys)) or "none" for keys in (may_hold, state.keys()))
            raise ValueError(f"{self.name}: expected tensors {expected}, got {got}")
        for key, value in state.items():
            if value.shape != (self.rows, self.cols):
                raise ValueError(f"{self.name}: expected {key} of shape {(self.rows, self.cols)}, got {tuple(value.shape)}")
            if value.dtype != (dtype := vars(self)[key].dtype if key in held else self.dtype):
                raise ValueError(f"{self.name}: expected {key} of dtype {dtype}, got {value.dtype}")
            if bool(value.isnan().any()):
                raise ValueError(f"{self.name}: expected {key} without NaN, got {int(value.isnan().sum())}")
        vars(self).update({key: value.to(self.device, copy=True) for key, value in state.items()})
