"""`Flops`: what the layers of a model cost, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """Attributes:
    planned: as the method plans it.
    executed: as it was so far; None: there was no step yet.
    """

    planned: float
    executed: float | None


@dataclass(frozen=True)
class LayerFlops:
    """One layer's row of `Flops`, or several layers together. FLOPs are those of the batch.

    Attributes:
        name: the layer's name in the model.
        tokens: how many tokens it multiplies: of a convolution, pixels of its output. None: several layers.
        sparse: whether it is a sparse layer.
        size: number of positions of its weight.
        density: mean over the steps of the run; over those so far.
        forward: of a forward pass at the end of the run; now.
        training: of a training step, as a mean over the run; over the steps so far. A frozen weight's gradient does not count.
        dense_forward, dense_training: those of the dense layer.
    """

    name: str
    tokens: int | None
    sparse: bool
    size: int
    density: Pair
    forward: Pair
    training: Pair
    dense_forward: float
    dense_training: float

    @property
    def forward_share(self) -> Pair:
        """Share of the dense layer's FLOPs."""
        return _shares(self.forward, self.dense_forward)

    @property
    def training_share(self) -> Pair:
        """Share of the dense layer's FLOPs."""
        return _shares(self.training, self.dense_training)


@dataclass(frozen=True)
class Flops:
    """What a model costs that a Sparsifier trains. `str()` formats it as a table.

    Attributes:
        layers: one row for each layer that multiplies by a weight, sparse and dense ones; and one for all other products.
        step: training steps so far.
        total_steps: those of the run.
        one_token: whether every layer is counted for a single token.
    """

    layers: tuple[LayerFlops, ...]
    step: int
    total_steps: int
    one_token: bool

    @property
    def sparse(self) -> LayerFlops:
        """The sparse layers together."""
        return together("sparse layers", (row for row in self.layers if row.sparse))

    @property
    def model(self) -> LayerFlops:
        """Everything. Its density leaves out the weights of other products, such as those of `nn.MultiheadAttention`."""
        return together("whole model", self.layers)

    def __str__(self) -> str:
        sums = [self.sparse, self.model] if any(row.sparse for row in self.layers) else [self.model]
        rows = [*self.layers, *sums]
        wide = max(len(row.name) for row in rows)
        what = ["density", "forward", "training", "forward/dense", "training/dense"]
        head = f"{'':<{wide}}  {'':>8}  " + "  ".join(f"{title:^19}" for title in what)
        each = f"{'layer':<{wide}}  {'tokens':>8}  " + "  ".join(f"{'planned':>9} {'executed':>9}" for _ in what)
        lines = [head.rstrip(), each]
        for row in rows:
            cells = [_cells(row.density, _percent), _cells(row.forward, _number), _cells(row.training, _number)]
            cells += [_cells(row.forward_share, _percent), _cells(row.training_share, _percent)]
            tokens = "" if row.tokens is None else str(row.tokens)
            lines.append(f"{row.name:<{wide}}  {tokens:>8}  " + "  ".join(cells))
        unit = "one token for each layer" if self.one_token else "this batch"
        lines.append(f"FLOPs of {unit}; training: of one step, as planned for {self.total_steps}, as executed in {self.step}")
        return "\n".join(lines)


def together(name: str, rows: Iterable[LayerFlops]) -> LayerFlops:
    """The sum of these rows; densities are weighted by the positions."""
    rows = list(rows)
    size = sum(row.size for row in rows)
    used = _sums([Pair(row.size * row.density.planned, _times(row.size, row.density.executed)) for row in rows])
    return LayerFlops(
        name,
        None,
        all(row.sparse for row in rows),
        size,
        _shares(used, size),
        _sums([row.forward for row in rows]),
        _sums([row.training for row in rows]),
        sum(row.dense_forward for row in rows),
        sum(row.dense_training for row in rows),
    )


def _sums(pairs: list[Pair]) -> Pair:
    executed = [pair.executed for pair in pairs if pair.executed is not None]
    return Pair(sum(pair.planned for pair in pairs), sum(executed) if len(executed) == len(pairs) else None)


def _shares(pair: Pair, of: float) -> Pair:
    """1 of nothing."""
    return Pair(*(None if value is None else value / of if of else 1.0 for value in pair))  # type: ignore[arg-type]


def _times(size: int, value: float | None) -> float | None:
    return None if value is None else size * value


def _cells(pair: Pair, form: object) -> str:
    return " ".join(f"{'-' if value is None else form(value):>9}" for value in pair)  # type: ignore[operator]


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _number(value: float) -> str:
    """With three digits: 1.23 G."""
    for letter, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.4g} {letter}"
    return f"{value:.4g}"
