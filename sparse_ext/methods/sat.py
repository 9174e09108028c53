"""SAT freezes the less important part of a network's weights; Together adds that to a method that changes patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .actions import Action, Freeze
from .base import About, Importance, Method
from .checks import check_choice, check_interval
from .numbers import LayerNumbers, Time

GRANULARITIES = ("element", "row", "layer")
SCORES = ("taylor", "square")


@dataclass(frozen=True)
class SAT(Method):
    """Selective adaptive training: only the most important weights train, and the others cost no weight gradient.

    Importance is an exponential average of |w g| (first-order Taylor, Molchanov et al. 2019, https://arxiv.org/abs/1906.10771)
    or g^2 (the empirical Fisher information). It is scored anew every `update_interval` steps, of which all gradients are
    computed. What is frozen still takes part in forward passes and input gradients; it keeps value and optimizer state bit for
    bit, without decay, whatever the optimizer. No paper defines this method. Closest are AutoFreeze (Liu et al. 2021,
    https://arxiv.org/abs/2102.01386) and Egeria (Wang et al. 2023, https://arxiv.org/abs/2201.06227), which freeze layers.

    It trains sparse layers, `nn.Linear` and `nn.Conv2d` (a dense layer that has a forward pass of its own, or whose weight is
    tied or parametrized, trains as a whole). All weights train until the first update. The threshold is a quantile. By
    "element" the trained share of each layer is `active`, rounded. By "row" and "layer" it is as near to that as whole rows of
    a layer, or whole layers of the model, allow. What a pattern grows later trains, too.

    Of a training step of 3 equal products it saves at most (1 - active) / 3. By "layer" it also saves the input gradients in
    front of the first layer that trains, unless parameters that it does not freeze, such as those of normalizations, lie there.
    Compiled
    code and DDP compute these input gradients. The optimizer steps on the trained part alone. Its state stays as long as it
    was, and the importance is one more number for each weight. From scratch, accuracy falls where the task is hard: use it to
    fine-tune.

    Args:
        active: the share of weights that train, in (0, 1].
        update_interval: steps between updates, at least 1.
        granularity: what is frozen together: "element", "row" (output features), or "layer", with its bias. A row or layer
            counts by the mean importance of its weights.
        score: "taylor" or "square".
        smoothing: the former scores' share of the average, in [0, 1).
        hysteresis: h in [0, 1): what is frozen thaws above (1 + h) times the threshold, what trains freezes below (1 - h).

    Raises:
        ValueError: an argument is out of range.

    Example:
        Sparsifier(model, optimizer, SAT(granularity="row"), total_steps=10_000)
        Sparsifier(model, optimizer, Together(RigL(), SAT()), total_steps=10_000)
    """

    freezes = True
    trains_dense_layers = True
    about: ClassVar[About | None] = About(
        source="no paper; see the class",
        forward="1; sparse layers: d",
        grad_input="1; sparse layers: d",
        grad_weight="active; sparse layers: active d",
        optimizer_memory="1; sparse layers: d",
        good_for="fine-tuning, dense or sparse",
    )

    active: float = 0.3
    update_interval: int = 500
    granularity: str = "element"
    score: str = "taylor"
    smoothing: float = 0.5
    hysteresis: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.active <= 1.0:
            raise ValueError(f"expected active in (0, 1], got {self.active}")
        check_interval("update_interval", self.update_interval)
        for name, known in (("granularity", GRANULARITIES), ("score", SCORES)):
            check_choice(name, getattr(self, name), known)
        for name in ("smoothing", "hysteresis"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"expected {name} in [0, 1), got {getattr(self, name)}")

    @property
    def importance(self) -> Importance:
        return Importance(self.score, self.smoothing)

    @property
    def changes_patterns(self) -> bool:
        return False

    def observed_steps(self) -> int:
        return 1

    def is_update(self, time: Time) -> bool:
        return time.step > 0 and time.step % self.update_interval == 0

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if time.step == 0:
            return {}
        if self.granularity != "layer":
            return dict.fromkeys(layers, Freeze(self.active, self.granularity, self.hysteresis))
        chosen = self._chosen(layers)
        return {name: Freeze(float(name in chosen), "layer") for name in layers}

    def _chosen(self, layers: Mapping[str, LayerNumbers]) -> set[str]:
        """The layers of largest mean importance that together have nearest to the active share of the weights, at least one."""
        counts = {name: layer.nnz for name, layer in layers.items()}
        means = {name: layer.total("importance") / max(1, counts[name]) for name, layer in layers.items()}
        scores = {
            name: means[name] / (1 - self.hysteresis if layer.share() else 1 + self.hysteresis)
            for name, layer in layers.items()
        }
        target, sums = self.active * sum(counts.values()), [0]
        ranked = sorted(layers, key=lambda name: -scores[name])  # stable: of equal ones the first
        for name in ranked:
            sums.append(sums[-1] + counts[name])
        best = min(range(1, len(sums)), key=lambda number: (abs(sums[number] - target), number), default=0)
        return set(ranked[:best])


@dataclass(frozen=True, init=False)
class Together(Method):
    """Several methods for the same layers: one that changes patterns or trains them as they are, and one that freezes parts.

    What a pattern drops leaves the trained part, and what it grows trains. A layer that is frozen as a whole gets no dense
    gradient, so that a method that grows by gradients keeps its pattern. Dense layers are trained by those methods that train
    such layers.

    Args:
        methods: any order.

    Raises:
        ValueError: not one of each kind.

    Example:
        Sparsifier(model, optimizer, Together(RigL(), SAT(granularity="row")), total_steps=10_000)
    """

    methods: tuple[Method, ...]

    def __init__(self, *methods: Method) -> None:
        freezing = [method for method in methods if isinstance(method, Method) and method.freezes]
        if len(methods) != 2 or len(freezing) != 1 or not all(isinstance(m, Method) and m.parts == (m,) for m in methods):
            names = ", ".join(type(method).__name__ for method in methods) or "none"
            raise ValueError(
                f"expected two methods, exactly one of which freezes parts of layers (SAT and TopKAST do), got {names}"
            )
        object.__setattr__(self, "methods", tuple(sorted(methods, key=lambda method: method.freezes)))

    @property
    def parts(self) -> tuple[Method, ...]:
        return self.methods

    @property
    def changes_patterns(self) -> bool:
        return self.methods[0].changes_patterns
