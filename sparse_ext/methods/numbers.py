"""What a method sees: the time, and layers as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Time(NamedTuple):
    """Progress of a run. Step s is the s-th call of `Sparsifier.step()`; step 0 is the start, before the first call."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class LayerNumbers:
    """What a method knows of a layer.

    Attributes:
        rows, cols: shape of the weight matrix.
        capacity: how many positions the layer can hold, after its weight has been made longer where that is possible.
        layout: name of the layer's layout.
        dense_weight: whether the layer stores a dense weight, of which products use a part.
        count: () -> nnz. May synchronise with the device.
        total: signal name -> sum of the signal's |score|. May synchronise with the device.
        shape: of the dense layer's weight; (): as (rows, cols).
        target: nnz that the layer was made for; None: as now. A method that changes densities ends with it.
        total_in_use: as `total`, of the positions in use alone.
        observed: () -> whether the layer had a gradient since the last update, for methods whose signals observe it.
        share: () -> the share of its weights that train; the rest is frozen. May synchronise with the device.
    """

    rows: int
    cols: int
    capacity: int
    layout: str
    dense_weight: bool
    count: Callable[[], int]
    total: Callable[[str], float]
    shape: tuple[int, ...] = ()
    target: int | None = None
    total_in_use: Callable[[str], float] = lambda signal: 0.0
    observed: Callable[[], bool] = lambda: True
    share: Callable[[], float] = lambda: 1.0

    @property
    def nnz(self) -> int:
        """Number of positions that products use. May synchronise with the device."""
        return self.count()

    @property
    def positions(self) -> int:
        """rows * cols."""
        return self.rows * self.cols

    @property
    def end(self) -> int:
        """The nnz that the layer was made for."""
        return self.nnz if self.target is None else self.target


class Layers(dict[str, LayerNumbers]):
    """{name: numbers} of a method's layers, and what is known of all of them together.

    Attributes:
        smallest: (count) -> {name: how many of the `count` smallest magnitudes of all layers are this one's}. Ties go to later
            layers, and to the higher position. Synchronises with the device.
    """

    def __init__(self, numbers: Mapping[str, LayerNumbers], smallest: Callable[[int], dict[str, int]]) -> None:
        super().__init__(numbers)
        self.smallest = smallest
