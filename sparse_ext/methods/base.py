"""`Method`: the hyper-parameters of a sparse training method, and its decisions: when patterns change, and how.

A method holds no tensors. It returns actions, and the `Sparsifier` carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .actions import Action, Regrow
from .checks import check_choice, check_interval
from .numbers import LayerNumbers, Time
from .schedules import SCHEDULES

# Metadata of a hyper-parameter that earlier versions did not have: a saved state names it only if it is not the default, so
# that states of these versions still load.
LATER = {"later": True}


class About(NamedTuple):
    """What the table of methods in the docs says of one; costs are shares of a dense layer's.

    Attributes:
        source: the paper, with a link.
        forward, grad_input, grad_weight: which part of each product is computed. d: density; D: number of positions.
        optimizer_memory: length of weight, gradient and optimizer state.
        good_for: when to choose it.
    """

    source: str
    forward: str = "d"
    grad_input: str = "d"
    grad_weight: str = "d"
    optimizer_memory: str = "d"
    good_for: str = ""


class Importance(NamedTuple):
    """How weights are scored at an update's step, of which the whole gradient is computed, whatever part of a layer trains.

    Attributes:
        score: "taylor" (|w g|) or "square" (g^2).
        smoothing: the former scores' share of the exponential average of scores.
    """

    score: str
    smoothing: float


class Exploration(NamedTuple):
    """A penalty on a dense weight whose gradient is added before every optimizer step; larger where products leave it out.

    Attributes:
        strength: lambda of Top-KAST; see there.
        norm: "l1" or "l2".
    """

    strength: float
    norm: str


# ---- methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A sparse training method. This base class never changes anything.

    A subclass is a frozen dataclass whose fields are the paper's hyper-parameters. It overrides `plan` and `is_update`.

    Attributes:
        signals: what the method ranks positions by: names in `train.SIGNALS`, or subclasses of `train.Signal`.
        dense_weight: whether the method trains a dense weight, of which products use a part. Packed layers are converted.
        masked_decay: lambda_W of SR-STE. Before every optimizer step, masked_decay * w is added to the gradient of each weight
            w that products leave out.
        changes_density: whether layers do not keep their nnz.
        spare_per_row: how many more positions than `max_density` says a layer may need, for each of its rows.
        any_positions: whether a layout has to be able to store any positions, however many of them there are in a row.
        about: for the table of methods in the docs; None: the method is not in it.
        samples_gradient: whether the weight gradient is estimated from a random sample of the output gradient.
        freezes: whether it freezes parts of layers.
        trains_dense_layers: whether it also trains layers that were never made sparse.
        importance: how it scores weights, to freeze the others; None: it does not.
        exploration: its penalty on a dense weight; None: it has none.
        parts: the methods that it consists of.
    """

    signals: ClassVar[tuple[str | type[Any], ...]] = ()
    dense_weight: ClassVar[bool] = False
    changes_density: ClassVar[bool] = False
    spare_per_row: ClassVar[float] = 0.0
    any_positions: ClassVar[bool] = False
    freezes: ClassVar[bool] = False
    trains_dense_layers: ClassVar[bool] = False
    about: ClassVar[About | None] = None

    @property
    def masked_decay(self) -> float:
        return 0.0

    @property
    def samples_gradient(self) -> bool:
        return False

    @property
    def first_spread(self) -> float | None:
        """How the random pattern of a layer is drawn that `sparsify_` makes for this method.

        None: any positions. A number in [0, 1]: as many in every row, or one more; at 1 anywhere in the row, the smaller it is
        the nearer to the row's own place, see `nn.receptive_field`.
        """
        return None

    @property
    def importance(self) -> Importance | None:
        return None

    @property
    def exploration(self) -> Exploration | None:
        return None

    @property
    def parts(self) -> tuple[Method, ...]:
        return (self,)

    @property
    def decides(self) -> bool:
        """Whether there are steps at which a pattern, or what is frozen, may change."""
        return any(part.changes_patterns or part.freezes for part in self.parts)

    @property
    def changes_patterns(self) -> bool:
        """Whether there are steps at which a pattern may change."""
        return type(self).is_update is not Method.is_update

    def is_update(self, time: Time) -> bool:
        """Whether the pattern may change at this step."""
        return False

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        """The actions of this step.

        Called at updates. Also called at step 0 and after `load_state_dict`, to learn which layout and rule layers should have
        then; other actions than `Choose` and `Switch` are ignored there.

        Args:
            layers: {name: numbers} of the layers that this method trains; from a `Sparsifier`, a `Layers`.
            time: the present step.

        Returns:
            {name: action}; layers that are not named stay as they are.
        """
        return {}

    def observed_steps(self) -> int:
        """How many steps the signals observe before an update, the update's own step included."""
        return 1 if self.signals else 0

    def observes(self, time: Time) -> bool:
        """Whether the signals observe the dense gradient of this step."""
        return any(self.is_update(Time(time.step + later, time.total_steps)) for later in range(self.observed_steps()))

    def initial_density(self, density: float) -> float:
        """The density with which a layer begins that is made for this one, so that `sparsify_` makes it so."""
        return density

    def max_density(self, density: float) -> float:
        """The largest density that a layer which is made for this one will reach: it needs that capacity."""
        return density

    def room_for(self, density: float, time: Time) -> float:
        """The density for which a layer that gets this one now gets room, where its storage may change.

        At least this one. Where the layer has to grow beyond it later, it is given room again.
        """
        return self.max_density(density)


@dataclass(frozen=True)
class DropAndGrow(Method):
    """Replaces a share of each layer's connections every `update_interval` steps. nnz is constant; the share falls with time.

    Args:
        drop_fraction: initial share of a layer's connections that an update replaces, in [0, 1].
        update_interval: steps between updates (Delta T), at least 1.
        t_end: updates stop before this step: a share of total_steps (float in (0, 1]), or a step number (int).
        schedule: how the share falls until t_end: a name in SCHEDULES ("constant", "cosine").

    Raises:
        ValueError: an argument is out of range.
    """

    grow_by: ClassVar[str] = "random"

    drop_fraction: float = 0.3
    update_interval: int = 100
    t_end: float | int = 0.75
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_fraction <= 1.0:
            raise ValueError(f"expected drop_fraction in [0, 1], got {self.drop_fraction}")
        check_interval("update_interval", self.update_interval)
        if not (0.0 < self.t_end <= 1.0 if isinstance(self.t_end, float) else self.t_end >= 0):
            raise ValueError(f"expected t_end as a share in (0, 1] or a step number (int), got {self.t_end}")
        check_choice("schedule", self.schedule, SCHEDULES)

    @property
    def unfired_first(self) -> bool:
        """Whether positions that were never in use grow before all others; a subclass may have a field of this name."""
        return False

    def last_step(self, total_steps: int) -> float:
        """t_end as a step number."""
        return self.t_end * total_steps if isinstance(self.t_end, float) else self.t_end

    def share(self, time: Time) -> float:
        """Which part of a layer's connections an update at this step replaces."""
        last = self.last_step(time.total_steps)
        return self.drop_fraction * SCHEDULES[self.schedule](time.step / last if last else 1.0)

    def is_update(self, time: Time) -> bool:
        return time.step % self.update_interval == 0 and 0 < time.step < self.last_step(time.total_steps)

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not 0 < time.step < self.last_step(time.total_steps):
            return {}  # a postponed update may fall behind t_end
        counts = {name: math.floor(self.share(time) * layer.nnz) for name, layer in layers.items()}
        first = self.unfired_first
        return {
            name: Regrow(count, count, grow_by=self.grow_by, unfired_first=first) for name, count in counts.items() if count
        }
