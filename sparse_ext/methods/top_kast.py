"""Top-KAST: products use the largest weights, and gradients reach some more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .actions import Action, Choose
from .base import About, Exploration, Method
from .checks import check_choice, check_interval
from .numbers import LayerNumbers, Time


@dataclass(frozen=True)
class TopKAST(Method):
    """Top-K always sparse training (Jayakumar et al. 2020, https://arxiv.org/abs/2106.03517).

    Layers have a dense weight. Products use the set A: the largest magnitudes, a share d, the layer's density. A larger set B,
    the share d + extra, gets gradients, by a sampled product. The optimizer steps on B alone; all else keeps value and state.
    The exploration penalty is lambda |w| on A, and lambda |w| / d on the rest of B: what explores has to prove itself. The
    sets are chosen anew every `update_interval` steps; the paper says that an interval of 100 loses little.

    In the paper layers may be chosen together; here each one keeps its density. In 2:4, A are two of every four neighbours,
    and B has beside them the largest of the others.

    Forward and input gradient cost d, the weight gradient d + extra; a choice costs a pass over the weight. Weight and
    optimizer state are as long as the dense layer's. Make the layers by `sparsify_(model, ..., method=TopKAST())`: layers
    that hold packed weights begin with 0 at all other positions.

    Args:
        extra: M, in [0, 1]: how much larger the share B is than A; all weights at most.
        update_interval: steps between choices, at least 1 (the paper).
        penalty: lambda, finite, at least 0.
        norm: "l1": the penalty is lambda |w|; "l2": lambda w^2 / 2.

    Raises:
        ValueError: an argument is out of range.
    """

    dense_weight = True
    freezes = True
    about: ClassVar[About | None] = About(
        source="[Jayakumar et al. 2020](https://arxiv.org/abs/2106.03517)",
        grad_weight="d + extra",
        optimizer_memory="1",
        good_for="sparse training without dense gradients, where memory is no concern",
    )

    extra: float = 0.1
    update_interval: int = 100
    penalty: float = 1e-4
    norm: str = "l1"

    def __post_init__(self) -> None:
        if not 0.0 <= self.extra <= 1.0:
            raise ValueError(f"expected extra in [0, 1], got {self.extra}")
        check_interval("update_interval", self.update_interval)
        if not 0.0 <= self.penalty < float("inf"):
            raise ValueError(f"expected a finite penalty of at least 0, got {self.penalty}")
        check_choice("norm", self.norm, ("l1", "l2"))

    @property
    def exploration(self) -> Exploration:
        return Exploration(self.penalty, self.norm)

    def is_update(self, time: Time) -> bool:
        return time.step % self.update_interval == 0

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        counts = {name: min(one.positions, one.nnz + round(self.extra * one.positions)) for name, one in layers.items()}
        return {name: Choose("largest", trained=count) for name, count in counts.items()}

    def max_density(self, density: float) -> float:
        return 1.0
