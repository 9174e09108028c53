"""`TrainedPart`: which part of a layer trains, how it is chosen, and the importance that it is chosen by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.methods import GRANULARITIES, Choose, Freeze, Importance
from sparse_ext.ops.pattern import largest, taken

if TYPE_CHECKING:
    from sparse_ext.nn import SparseLayer

Index = tuple[torch.Tensor, int | None]


class TrainedPart:
    """What of a layer trains. Follows the layer's slots through every change of its pattern.

    Attributes:
        by: what is frozen together: "element", "row" or "layer".
        trained: bool: of each slot, of each row, or [1]; None: all train.
        importance: of each slot, [capacity]; None: not scored yet.
        scored: whether the last scoring step gave a score; spoiled: whether it gave one that is not finite.
    """

    def __init__(self, layer: SparseLayer) -> None:
        self.layer = layer
        self.by = "element"
        self.trained: torch.Tensor | None = None
        self.importance: torch.Tensor | None = None
        self.scored = self.spoiled = False
        self._scoring: Importance | None = None
        self._awaited = False
        self._known: tuple[Any, Index] | None = None  # what `at` gave, and of what

    # ---- training steps -------------------------------------------------------------------------------------------------

    def arm(self, scoring: Importance | None, awaited: bool) -> None:
        """Prepares the layer's next step.

        Args:
            scoring: how the step's gradient is scored: then all of it is computed. None: it is not.
            awaited: whether a gradient must come in any case, as DDP waits for it.
        """
        self._scoring, self._awaited = scoring, awaited
        if scoring is not None:
            self.scored = self.spoiled = False
        if self.trained is None or scoring is not None:
            self.layer.train_all_()
        elif self.layer._trains is None:
            self.layer.train_part_(self.by, self.trained.to(self.layer.weight.device), awaited)

    def arm_again(self) -> None:
        """As before: the layer's pattern was written."""
        self.arm(self._scoring, self._awaited)

    @torch.no_grad()
    def observe(self, scale: torch.Tensor | None) -> None:
        """Scores the gradient with which the optimizer is about to step; scale: by which it is too large."""
        how, weight = self._scoring, self.layer.weight
        if how is None or weight.grad is None:
            return
        gradient = weight.grad.detach().reshape(-1)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        if scale is not None:
            gradient = gradient / scale
        score = gradient.square() if how.score == "square" else (gradient * weight.detach().reshape(-1)).abs()
        self.scored, self.spoiled = True, not bool(score.isfinite().all())
        self._scoring = None
        if self.spoiled:
            return
        if self.importance is None or how.smoothing == 0.0:
            self.importance = score
        else:
            self.importance = self.importance.to(score).lerp(score, 1.0 - how.smoothing)

    # ---- what is chosen -------------------------------------------------------------------------------------------------

    def freeze(self, action: Freeze) -> None:
        """Chooses by importance what trains."""
        assert self.importance is not None
        used = self._used()
        before = self.trained if self.by == action.by else None
        self.by = action.by
        if action.by == "layer":
            self.trained = torch.tensor([action.trained > 0], device=used.device)
        elif action.by == "row":
            self.trained = self._rows(action, used, before)
        else:
            score = _favoured(self.importance, before, action.hysteresis)[used]
            self.trained = torch.zeros_like(used)
            self.trained[used] = largest(score, _trained_count(action.trained, score.numel()))
        self.layer.train_all_()

    def _rows(self, action: Freeze, used: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """The rows of largest mean importance whose weights are nearest to the share, at least one row."""
        rows, cols = self.layer.product.rows, self.layer.product.cols
        assert self.importance is not None
        at = self.layer.slots()[used]
        row = at // max(1, cols)
        matrix = self.importance.new_zeros(rows * cols).index_copy_(0, at, self.importance[used])  # summed in one order
        sums, counts = matrix.view(rows, cols).sum(1, dtype=torch.float64), torch.bincount(row, minlength=rows)
        order = _favoured(sums / counts.clamp(min=1), before, action.hysteresis).sort(descending=True, stable=True).indices
        reached = counts[order].cumsum(0)
        taken_rows = int((reached - action.trained * row.numel()).abs().argmin()) + 1
        return torch.zeros(rows, dtype=torch.bool, device=row.device).index_fill_(0, order[:taken_rows], True)

    def choose(self, action: Choose) -> None:
        """Chooses of a dense weight what products use, and the largest magnitudes of the others."""
        assert action.trained is not None
        weight = self.layer.weight.detach()
        score = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
        score.masked_fill_(self.layer.pattern.mask().view(-1), torch.inf)
        self.by, self.trained = "element", largest(score, action.trained)
        self.layer.train_all_()

    def slots(self) -> torch.Tensor | None:
        """bool [capacity]: which slots train; None: all."""
        if self.trained is None:
            return None
        slots = self.layer.slots()
        trained = self.trained.to(slots.device)
        if self.by == "element":
            return trained
        row = slots.clamp(min=0) // max(1, self.layer.product.cols)
        return trained[row] if self.by == "row" else trained.expand_as(slots)

    def follow(self, source: torch.Tensor) -> None:
        """The weight has moved along this slot map: what is new trains."""
        self._known = None
        if self.importance is not None:
            self.importance = taken(self.importance, source)
        if self.trained is not None and self.by == "element":
            self.trained = taken(self.trained, source) | (source.to(self.trained.device) < 0)
        self.layer.train_all_()

    # ---- reading --------------------------------------------------------------------------------------------------------

    def _used(self) -> torch.Tensor:
        """bool [capacity]: the slots that have a position."""
        return self.layer.slots() >= 0

    def at(self) -> Index:
        """Indices of what trains, and how many rows there are, if the indices are of rows; otherwise they are of slots."""
        assert self.trained is not None
        key = id(self.trained), self.trained._version, self.layer.weight.device, self.layer.layout
        if self._known is None or self._known[0] != key:  # to list them waits for the device
            self._known = key, self._listed(self.trained.to(self.layer.weight.device))
        return self._known[1]

    def _listed(self, trained: torch.Tensor) -> Index:
        if self.by == "row" and self.layer._has_rows:
            return trained.nonzero().squeeze(1), self.layer.product.rows
        slots = self.layer.slots()
        used = slots >= 0
        part = trained if self.by == "element" else trained[slots.clamp(min=0) // max(1, self.layer.product.cols)]
        return (used & part).nonzero().squeeze(1), None

    def share(self) -> float:
        """The share of the layer's weights that train."""
        if self.trained is None:
            return 1.0
        if self.by == "layer":
            return float(self.trained)
        index, rows = self.at()
        return index.numel() / max(1, int(self._used().sum()) if rows is None else rows)

    def total(self) -> float:
        """The sum of all importances."""
        return 0.0 if self.importance is None else float(self.importance.double().sum())

    # ---- checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Plain tensors; empty if all trains and nothing was scored."""
        state = {} if self.importance is None else {"importance": self.importance.clone()}
        return state if self.trained is None else {**state, self.by: self.trained.clone()}

    def check(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """ValueError unless `state_dict` of such a layer may have given this."""
        sizes = {"importance": self.layer.capacity, "element": self.layer.capacity, "row": self.layer.product.rows, "layer": 1}
        for key, tensor in state.items():
            kind = tensor.is_floating_point() if key == "importance" else tensor.dtype is torch.bool
            if key not in sizes or not kind or tuple(tensor.shape) != (sizes[key],):
                known = ", ".join(f"{name} [{size}]" for name, size in sizes.items())
                raise ValueError(
                    f"trained: expected of {name!r} {known}, got {key} {tensor.dtype} {list(tensor.shape)}; "
                    "load the model's state first"
                )
            if key == "importance" and not bool((tensor >= 0).all() and tensor.isfinite().all()):
                raise ValueError(f"trained: expected finite importances of {name!r}, 0 or more, got others")

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """What `state_dict` gave, checked."""
        device: Any = self.layer.weight.device
        self.importance = state["importance"].to(device, copy=True) if "importance" in state else None
        self.by = next((by for by in GRANULARITIES if by in state), "element")
        self.trained = state[self.by].to(device, copy=True) if self.by in state else None
        self.scored = self.spoiled = False
        self._known = None
        self.layer.train_all_()


def _trained_count(share: float, count: int) -> int:
    """How many of so many weights train; at least one, if the share is more than 0."""
    return min(count, max(math.ceil(min(share, 1.0)), round(share * count)))


def _favoured(score: torch.Tensor, before: torch.Tensor | None, hysteresis: float) -> torch.Tensor:
    """The scores, of what trains and of what is frozen, such that one threshold for them is two for the scores given."""
    if before is None:
        return score
    return score / torch.where(before.to(score.device), 1.0 - hysteresis, 1.0 + hysteresis)
