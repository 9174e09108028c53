"""Actions: what a method can order for a layer. `train.changes` carries them out, a function for each class of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """What a method orders for one layer at one step."""


@dataclass(frozen=True)
class Regrow(Action):
    """Drop the lowest-ranked stored positions, then grow the highest-ranked of the others.

    Attributes:
        drop, grow: how many positions to drop and to grow.
        keep_by: ranks the stored positions: "magnitude" (of the weight), or one of the method's signals.
        grow_by: ranks the other positions: "random", or one of the method's signals.
        keep_power: None: the largest stay. A number: those that stay are drawn, without replacement, with chances in proportion
            to |score| ** keep_power.
        grow_power: the same of those that grow.
        unfired_first: positions that were never in use grow before all others.
        fresh_state: the optimizer's state of all the layer's weights that train begins anew.
        after_drop: signals that read the layer score for growth what is left after the drop.
    """

    drop: int
    grow: int
    keep_by: str = "magnitude"
    grow_by: str = "random"
    keep_power: float | None = None
    grow_power: float | None = None
    unfired_first: bool = False
    fresh_state: bool = False
    after_drop: bool = False

    @property
    def streams(self) -> bool:
        """Whether growth can choose positions while the gradient is computed, so that no matrix of it is held."""
        return self.keep_by == "magnitude" and self.grow_power is None and not self.unfired_first


@dataclass(frozen=True)
class RegrowEvenly(Regrow):
    """Regrow so that all rows in use have equally many positions. Rows with too few salient positions are given up.

    Salient are the stored positions without the `drop` of smallest magnitude, and the `grow` of largest score of all.

    Attributes:
        nnz: how many positions there are to be. Every row in use gets nnz / rows in use, rounded.
        salient: a row with fewer salient positions than this share of a row, and one with none, is given up. None: no row is.
        of_dense: the share is one of a row's columns; otherwise one of the positions that a row in use has now.
    """

    nnz: int = 0
    salient: float | None = None
    of_dense: bool = False

    @property
    def streams(self) -> bool:
        return False


@dataclass(frozen=True)
class Choose(Action):
    """Choose anew, by this rule, which positions of a dense weight products use.

    Attributes:
        trained: how many weights train until the next choice: those that products use, then the largest magnitudes of the
            others. The rest is frozen. None: all train.
    """

    rule: str
    trained: int | None = None


@dataclass(frozen=True)
class Switch(Action):
    """Store the weight in this layout from now on. Does nothing if it already is."""

    layout: str


@dataclass(frozen=True)
class Freeze(Action):
    """Freeze a part of the weight: products use it, but it keeps its value and optimizer state, and gets no gradient.

    Attributes:
        trained: the share of the layer's weights that train, in [0, 1]: those of largest importance.
        by: what is frozen together: "element", "row" (of the weight matrix) or "layer" (with the bias; trained is 0 or 1).
        hysteresis: what trains now counts for 1 / (1 - hysteresis) of its importance, what is frozen for 1 / (1 + hysteresis).
    """

    trained: float
    by: str = "element"
    hysteresis: float = 0.0
