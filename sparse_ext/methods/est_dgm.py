"""EST-DGM: cycles of three phases, each with a density of its own; growth by how large and how consistent gradients are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, Regrow
from .base import About, DropAndGrow
from .checks import check_choice, check_gradient_steps
from .numbers import LayerNumbers, Time

# How positions are chosen, and the signal that ranks them then.
SELECTIONS = {"literal": "consistency", "split": "consistency", "blend": "consistency blend"}


@dataclass(frozen=True)
class ESTDGM(DropAndGrow):
    """EST-DGM: exploration at 60 to 70 % density, then 20 to 30 %, then refinement at the layer's own, in cycles.

    It is known from articles alone: there is neither paper nor code. This is our reading of them. A position's score is
    q = (mean |g|)^magnitude_power * (|sum of sign(g)| / n)^sign_power over the n = gradient_steps observed steps: large are
    gradients that keep their sign. At the first update of a phase the layer gets the phase's density, at later ones positions
    are exchanged. After the last cycle's refinement has begun, and t_end has come, the pattern stays.

    "literal" removes large weights that have converged, as their gradients are small; docs/methods.md has what that costs.

    It costs the density of the moment, and one dense weight gradient for each of gradient_steps before each update; more than
    one of them keep two tensors [rows, cols] for each layer until the update. "2.5 times faster", as the articles say, is close
    to the ceiling: equal phases have a mean density of 0.34.

    Args:
        drop_fraction, schedule: the share of connections that an update inside a phase exchanges ("split"), and how it falls.
        update_interval: steps between updates, beside those with which phases begin.
        t_end: patterns stay from this step on, but for changes of phase: a share of total_steps, or a step number.
        cycles: how often the three phases take place, at least 1.
        phases: shares of a cycle, which sum to 1.
        densities: of the first two phases, in (0, 1]; the third has the layer's own. A denser layer keeps its own throughout.
        selection: "split": the largest weights stay, the largest q grow. "literal": the largest q stay and grow. "blend": the
            largest |w| / mean |w| + blend * q / mean q stay and grow; means are over positions in use, and over all.
        gradient_steps: n, from 1 (the cost of RigL) to update_interval (that of SNFS).
        magnitude_power, sign_power: above 0, and at least 0.
        blend: the weight of q in the selection "blend", at least 0.

    Raises:
        ValueError: an argument is out of range.
    """

    changes_density = True
    about = About(
        "popular articles without paper or code",
        forward="d(t)", grad_input="d(t)", grad_weight="d(t), 1 at observed steps", optimizer_memory="d(t)",
        good_for="comparison with the published claims",
    )  # fmt: skip

    t_end: float | int = 0.95
    cycles: int = 3
    phases: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
    densities: tuple[float, ...] = (0.65, 0.25)
    selection: str = "split"
    gradient_steps: int = 1
    magnitude_power: float = 1.0
    sign_power: float = 1.0
    blend: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("phases", "densities"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # methods are compared and hashed
        self._check_phases()
        check_choice("selection", self.selection, SELECTIONS)
        check_gradient_steps(self.gradient_steps, self.update_interval)
        if not 0.0 < self.magnitude_power < math.inf:
            raise ValueError(f"expected a finite magnitude_power above 0, got {self.magnitude_power}")
        for name in ("sign_power", "blend"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected a finite {name} of at least 0, got {getattr(self, name)}")

    def _check_phases(self) -> None:
        if self.cycles < 1 or self.cycles != int(self.cycles):
            raise ValueError(f"expected a whole number of cycles, at least 1, got {self.cycles}")
        if len(self.phases) != 3 or min(self.phases) < 0 or not math.isclose(sum(self.phases), 1.0):
            raise ValueError(f"expected three phases, shares of a cycle that sum to 1, got {self.phases}")
        if len(self.densities) != 2 or not all(0.0 < density <= 1.0 for density in self.densities):
            raise ValueError(f"expected two densities in (0, 1], got {self.densities}")

    @property
    def signals(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.score,)

    @property
    def score(self) -> str:
        """The signal that ranks positions: of a single step, q ranks as the gradient's magnitude does."""
        if self.gradient_steps == 1 and self.selection != "blend":
            return "gradient"
        return SELECTIONS[self.selection]

    def observed_steps(self) -> int:
        return self.gradient_steps

    # ---- when -----------------------------------------------------------------------------------------------------------

    def begins(self, total_steps: int) -> list[int]:
        """The steps at which the phases after the first begin, 1 at least; of a short run several may be the same."""
        shares = [cycle + sum(self.phases[:phase]) for cycle in range(self.cycles) for phase in range(3)]
        return [min(total_steps, max(1, round(share / self.cycles * total_steps))) for share in shares[1:]]

    def density_at(self, density: float, time: Time) -> float:
        """The density, from this step on, of a layer that ends with this one."""
        phase = sum(begin <= time.step for begin in self.begins(time.total_steps)) % 3
        return max(density, (*self.densities, density)[phase])

    def is_update(self, time: Time) -> bool:
        # Those behind the end find nothing to do, unless a run was resumed with another length.
        return time.step > 0 and (time.step % self.update_interval == 0 or time.step in self.begins(time.total_steps))

    def is_frozen(self, time: Time) -> bool:
        """Whether patterns stay as they are at this step, once they have the last phase's density."""
        return time.step >= self.last_step(time.total_steps) and time.step > self.begins(time.total_steps)[-1]

    def observes(self, time: Time) -> bool:
        coming = (Time(time.step + later, time.total_steps) for later in range(self.gradient_steps))
        return any(self.is_update(one) and not self.is_frozen(one) for one in coming)

    # ---- what -----------------------------------------------------------------------------------------------------------

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        orders = {name: self._order(layer, time) for name, layer in layers.items()}
        return {name: order for name, order in orders.items() if order.drop or order.grow}

    def _order(self, layer: LayerNumbers, time: Time) -> Regrow:
        nnz = layer.nnz
        count = round(self.density_at(layer.end / max(1, layer.positions), time) * layer.positions)
        if self.is_frozen(time):
            return Regrow(max(0, nnz - count), 0)
        if self.selection != "split":  # what is dropped and grows again keeps its value: so the best of all positions remain
            return Regrow(nnz, count, grow_by=self.score)
        exchanged = 0
        if nnz == count and 0 < time.step < self.last_step(time.total_steps):
            exchanged = math.floor(self.share(time) * nnz)
        drop, grow = max(0, nnz - count) + exchanged, max(0, count - nnz) + exchanged
        return Regrow(drop, grow, grow_by=self.score if grow else "random")

    def initial_density(self, density: float) -> float:
        return max(density, self.densities[0])

    def max_density(self, density: float) -> float:
        return max(density, *self.densities)

    def room_for(self, density: float, time: Time) -> float:
        return density
