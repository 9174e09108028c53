"""GMP and GraNet: layers begin dense, or denser than they end, and are pruned by magnitude along a cubic ramp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, Regrow
from .base import About, DropAndGrow, Method
from .checks import check_interval
from .numbers import LayerNumbers, Time
from .ramps import check_initial_sparsity, check_scope, check_window, ramp, surplus, window


@dataclass(frozen=True)
class GMP(Method):
    """Gradual magnitude pruning (Zhu & Gupta 2017, section 3, https://arxiv.org/abs/1710.01878).

    At steps t = t_start + j * update_interval the sparsity is s_end + (s_start - s_end) * (1 - progress)^3: many connections go
    early, few late. What was pruned never returns. The default window, 25 % to 75 % of the run, is near the best of 80
    schedules of "The Journey Matters" (ICLR 2025, https://arxiv.org/abs/2501.12486).

    Unlike other implementations the last update comes exactly at t_end, whether or not the interval divides the window, and
    leaves exactly the number of positions that the layer was made for. All three products cost the density of the moment: on
    average over the ramp its end plus a quarter of the way to its begin.

    Args:
        initial_sparsity: share of zeros until t_start, in [0, 1). Layers that end with fewer begin as they end.
        t_start, t_end: the window: shares of total_steps (floats in [0, 1]), or step numbers (ints).
        update_interval: steps between updates, at least 1.
        scope: "layer": each layer follows the schedule to its own number of positions. "global": the smallest magnitudes of all
            layers go; the total at the end is exactly the sum of the layers' own numbers.

    Raises:
        ValueError: an argument is out of range.
    """

    changes_density = True
    about = About(
        "Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878",
        forward="d(t)", grad_input="d(t)", grad_weight="d(t)", optimizer_memory="d(t)",
        good_for="the best accuracy at high sparsity, where the first part of the run may be dense",
    )  # fmt: skip

    initial_sparsity: float = 0.0
    t_start: float | int = 0.25
    t_end: float | int = 0.75
    update_interval: int = 100
    scope: str = "layer"

    def __post_init__(self) -> None:
        check_initial_sparsity(self.initial_sparsity)
        check_window("t_start", self.t_start, "t_end", self.t_end)
        check_scope(self.scope)
        check_interval("update_interval", self.update_interval)

    def is_update(self, time: Time) -> bool:
        start, end = window(self.t_start, self.t_end, time.total_steps)
        # Those behind the end find nothing to do, unless a run was resumed with another length.
        return time.step > start and ((time.step - start) % self.update_interval == 0 or time.step == end)

    def density_at(self, density: float, time: Time) -> float:
        """The density, from this step on, of a layer that ends with this one."""
        start, end = window(self.t_start, self.t_end, time.total_steps)
        return ramp(self.initial_density(density), density, start, end, time.step)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        drops = surplus(layers, {name: count_at(self, layer, time) for name, layer in layers.items()}, self.scope)
        return {name: Regrow(drop, 0) for name, drop in drops.items() if drop}

    def initial_density(self, density: float) -> float:
        return max(density, 1.0 - self.initial_sparsity)


@dataclass(frozen=True)
class GraNet(DropAndGrow):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al. 2021, https://arxiv.org/abs/2106.10404, section 4).

    Every update prunes by magnitude along GMP's cubic ramp, then replaces a share of what is left: the smallest magnitudes go,
    and as many positions grow where the dense gradient of this step is largest. After the ramp it goes on as RigL does.

    The paper prunes all layers together (scope="global"). The defaults of share, window and start are those of its code: a
    half, 110 of 160 epochs, and half of all positions; connections are replaced until the end of the run. It costs what GMP
    costs from initial_sparsity on, and one dense weight gradient for each update.

    Args:
        drop_fraction, update_interval, t_end, schedule: see `DropAndGrow`; of the replaced connections.
        initial_sparsity: share of zeros until ramp_start, in [0, 1).
        ramp_start, ramp_end: the ramp's window: shares of total_steps (floats in [0, 1]), or step numbers (ints).
        scope: as of `GMP`.

    Raises:
        ValueError: an argument is out of range.
    """

    signals = ("gradient",)
    grow_by = "gradient"
    changes_density = True
    about = About(
        "Liu et al. 2021, https://arxiv.org/abs/2106.10404",
        forward="d(t)", grad_input="d(t)", grad_weight="d(t), 1 at updates", optimizer_memory="d(t)",
        good_for="GMP's accuracy from a start that is sparse already",
    )  # fmt: skip

    drop_fraction: float = 0.5
    t_end: float | int = 1.0
    initial_sparsity: float = 0.5
    ramp_start: float | int = 0.0
    ramp_end: float | int = 110 / 160
    scope: str = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_initial_sparsity(self.initial_sparsity)
        check_window("ramp_start", self.ramp_start, "ramp_end", self.ramp_end)
        check_scope(self.scope)

    def is_update(self, time: Time) -> bool:
        end = window(self.ramp_start, self.ramp_end, time.total_steps)[1]
        return time.step > 0 and (time.step % self.update_interval == 0 or time.step == end)

    def observes(self, time: Time) -> bool:
        return time.step < self.last_step(time.total_steps) and super().observes(time)

    def density_at(self, density: float, time: Time) -> float:
        """The density, from this step on, of a layer that ends with this one."""
        start, end = window(self.ramp_start, self.ramp_end, time.total_steps)
        return ramp(self.initial_density(density), density, start, end, time.step)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        counts = {name: count_at(self, layer, time) for name, layer in layers.items()}
        drops, share = surplus(layers, counts, self.scope), self.share_at(time)
        total = sum(layer.nnz for layer in layers.values())
        left = (total - sum(drops.values())) / max(1, total)
        orders: dict[str, Action] = {}
        for name, layer in layers.items():
            # Not of what is left in this layer: the number must be known a step ahead, to keep candidates for growth.
            nnz = layer.nnz - drops[name] if self.scope == "layer" else layer.nnz * left
            grow = min(math.floor(share * nnz), layer.nnz - drops[name])
            if drops[name] or grow:
                orders[name] = Regrow(drops[name] + grow, grow, grow_by=self.grow_by if grow else "random")
        return orders

    def share_at(self, time: Time) -> float:
        """The share of connections that an update at this step replaces."""
        last = self.last_step(time.total_steps)
        return self.share(time) if 0 < time.step < last else 0.0

    def initial_density(self, density: float) -> float:
        return max(density, 1.0 - self.initial_sparsity)


def count_at(method: GMP | GraNet, layer: LayerNumbers, time: Time) -> int:
    """How many positions the layer should have from this step on."""
    return round(method.density_at(layer.end / max(1, layer.positions), time) * layer.positions)
