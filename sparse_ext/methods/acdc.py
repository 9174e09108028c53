"""AC/DC: dense and sparse phases in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, Regrow
from .base import About, Method
from .numbers import LayerNumbers, Time
from .ramps import check_scope, check_window, surplus, window
from .schedules import check_when, step_at


@dataclass(frozen=True)
class ACDC(Method):
    """Alternating compressed / decompressed training (Peste et al. 2021, https://arxiv.org/abs/2106.12379, Algorithm 1).

    After a dense warm-up, compressed and decompressed phases of equal length take turns; the last compressed phase lasts until
    the end. A compressed phase trains the largest magnitudes as they are when it begins. In a decompressed phase all positions
    train: those that come back begin at 0, and the optimizer's state of all the layer's weights begins anew (the paper resets
    the momentum). The defaults are the paper's for 100 epochs of ImageNet: 10 of warm-up, phases of 5, the last one 20 long.

    All three products cost the density of the phase, so the run as a whole about half of a dense one. With Adam, whose step
    count goes on, the first steps after a reset are larger than usual, as in all growth.

    Args:
        t_start: end of the dense warm-up, which lasts at least as long as any phase: a share of total_steps (float in [0, 1]),
            or a step number (int).
        t_end: the last compressed phase begins by then: likewise.
        update_interval: length of a phase: a share of total_steps (float in (0, 1]), or a number of steps (int, at least 1).
        scope: "layer": each layer keeps its own number of positions. "global": the largest magnitudes of all layers stay, as
            many as all of these numbers together.

    Raises:
        ValueError: an argument is out of range.
    """

    changes_density = True
    about = About(
        "Peste et al. 2021, https://arxiv.org/abs/2106.12379",
        forward="1 or d, in turn", grad_input="1 or d, in turn", grad_weight="1 or d, in turn",
        optimizer_memory="1 or d, in turn",
        good_for="accuracy close to a dense model's at 90 to 95 % sparsity; a dense model comes with the sparse one",
    )  # fmt: skip

    t_start: float | int = 0.1
    t_end: float | int = 0.85
    update_interval: float | int = 0.05
    scope: str = "layer"

    def __post_init__(self) -> None:
        check_window("t_start", self.t_start, "t_end", self.t_end)
        check_when("update_interval", self.update_interval)
        check_scope(self.scope)
        if not self.update_interval:
            raise ValueError(f"expected an update_interval above 0, got {self.update_interval}")

    def phases(self, total_steps: int) -> tuple[int, int, int]:
        """The step at which the first compressed phase begins, the length of a phase, and the number of switches after that."""
        length = max(1, step_at(self.update_interval, total_steps))
        start, end = window(self.t_start, self.t_end, total_steps)
        first = min(max(start, length), end)
        switches = (end - first) // length
        return first, length, switches - switches % 2

    def is_compressed(self, time: Time) -> bool:
        """Whether layers are sparse from this step on."""
        first, length, switches = self.phases(time.total_steps)
        return time.step >= first and min((time.step - first) // length, switches) % 2 == 0

    def density_at(self, density: float, time: Time) -> float:
        """The density, from this step on, of a layer that ends with this one."""
        return density if self.is_compressed(time) else 1.0

    def is_update(self, time: Time) -> bool:
        first, length, _ = self.phases(time.total_steps)
        # Those behind the last switch find nothing to do, unless a run was resumed with another length.
        return time.step >= first and (time.step - first) % length == 0

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if self.is_compressed(time):
            drops = surplus(layers, {name: layer.end for name, layer in layers.items()}, self.scope)
            return {name: Regrow(drop, 0) for name, drop in drops.items() if drop}
        missing = {name: layer.positions - layer.nnz for name, layer in layers.items()}
        return {name: Regrow(0, grow, fresh_state=True) for name, grow in missing.items() if grow}

    def initial_density(self, density: float) -> float:
        return 1.0

    def max_density(self, density: float) -> float:
        return 1.0

    def room_for(self, density: float, time: Time) -> float:
        return density
