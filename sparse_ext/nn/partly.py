"""`PartlyTrained`: a layer of which a part is frozen: its products use it, and no gradient of it is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from sparse_ext.ops import Part, layout_named, rows_part, slots_part

# Where a layer that is frozen as a whole has to have a gradient: of so many rows, or slots, it is computed. A compiler takes
# sizes from 2 on for variables.
LEAST = 2


class Trains(NamedTuple):
    """What of a layer trains.

    Attributes:
        part: of the weight. Of a layer that is frozen as a whole, the least that a gradient can be computed of.
        whole: whether all of the layer trains, or nothing of it, the bias included; None: a part of the weight, and the bias.
        awaited: whether a gradient must come in any case, as DDP waits for it.
    """

    part: Part
    whole: bool | None = None
    awaited: bool = False

    def of(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None, Part | None]:
        """Weight, bias and part for a product. What is frozen as a whole is detached, so that autograd skips all before it.

        Compiled code gets a part in any case: a program for each set of frozen layers would be too many.
        """
        if torch.compiler.is_compiling() or self.whole is None or (self.awaited and not self.whole):
            return weight, bias, self.part
        if self.whole:
            return weight, bias, None
        return weight.detach(), None if bias is None else bias.detach(), None


class PartlyTrained:
    """What layers share of which a part may be frozen."""

    weight: nn.Parameter
    layout: str
    product: Any
    _trains: Trains | None = None

    def train_part_(self, by: str, trained: torch.Tensor, awaited: bool = False) -> None:
        """From now on backward passes compute the weight gradient of this part alone, until the pattern changes.

        It changes no value: that the optimizer leaves the rest alone is its caller's task.

        Args:
            by: "element", "row" or "layer".
            trained: bool: of each slot of the weight, of each row, or [1].
            awaited: whether a layer that is frozen as a whole must get a gradient in any case.
        """
        whole = bool(trained) if by == "layer" else None
        live = None if whole is None else trained.to(self.weight.dtype)
        if by != "element" and self._has_rows:
            rows = torch.arange(self.product.rows if whole else min(LEAST, self.product.rows), device=trained.device)
            part = rows_part(rows if by == "layer" else trained.nonzero().squeeze(1))
            self._trains = Trains(part._replace(live=live), whole, awaited)
            return
        at: torch.Tensor = self.slots()  # type: ignore[attr-defined]
        used = at >= 0
        if by == "element":
            used &= trained.view(-1)
        elif by == "row":
            used &= trained[at.clamp(min=0) // max(1, self.product.cols)]
        slots = used.nonzero().squeeze(1)
        slots = slots[:LEAST] if whole is False else slots
        self._trains = Trains(slots_part(self.product, at[slots], slots)._replace(live=live), whole, awaited)

    def train_all_(self) -> None:
        """From now on backward passes compute the whole weight gradient."""
        self._trains = None

    @property
    def _has_rows(self) -> bool:
        """Whether rows of the weight are a product of their own: it has a slot for each position, and no groups."""
        positional = self.chosen_by is not None or layout_named(self.layout).AT_POSITIONS  # type: ignore[attr-defined]
        return positional and getattr(self.product, "groups", 1) == 1
