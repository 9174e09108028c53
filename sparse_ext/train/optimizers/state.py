"""Optimizer state: one slot map moves a weight, its gradient and every tensor that an optimizer keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sparse_ext.ops.pattern import taken

from .found import Found, find, obstacle
from .wrappers import group_of

Fresh = Mapping[tuple[str, ...], float]  # {path of a state tensor: what it holds of a weight that got no gradient yet}


class OptimizerState:
    """What optimizers keep of sparse weights: finds it anew at every use, checks that it can follow, and moves it.

    Args:
        optimizers: those that the user calls; what they wrap is searched, too.
        trusted: whether to move what has a weight's shape, and to leave everything else alone, in place of refusing it.
    """

    def __init__(self, optimizers: Sequence[Any], trusted: bool = False) -> None:
        self.optimizers, self.trusted = tuple(optimizers), trusted
        self._fresh: dict[torch.Tensor, Fresh] = {}
        self._remembered: dict[torch.Tensor, list[Found]] | None = None

    def learn(self, weight: torch.Tensor, fresh: Fresh) -> None:
        """Begins the state of new elements of this weight with these values; what is not named begins with 0."""
        self._fresh[weight] = fresh

    def holder(self, weight: torch.Tensor) -> Any:
        """The optimizer that holds the weight, of those that the user calls; StopIteration if none does."""
        return next(one for one in self.optimizers if group_of(one, weight) is not None)

    def check(self, weights: Sequence[torch.Tensor]) -> None:
        """ValueError unless all that the optimizers keep of these weights can be moved."""
        problem = obstacle([one for weight in weights for one in self._find(weight)], weights)
        if problem is not None and not self.trusted:
            kind, sentence = problem
            raise ValueError(f"{kind}: {sentence}; a topology update can only move state that has one value per weight")

    def of(self, weight: torch.Tensor, shape: torch.Size | None = None) -> list[Found]:
        """The tensors that have one value for each element of the weight; shape: of a weight that had another one."""
        shape = weight.shape if shape is None else shape
        return [one for one in self._find(weight) if one.owner is weight and one.tensor.shape == shape]

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Within this, one search serves all weights, as in an update: no optimizer may step."""
        found = find(self.optimizers, self._fresh)
        self._remembered = {weight: [one for one in found if one.owner is None] for weight in self._fresh}
        for one in found:
            if one.owner is not None:
                self._remembered[one.owner].append(one)
        try:
            yield
        finally:
            self._remembered = None

    def _find(self, weight: torch.Tensor) -> list[Found]:
        """What belongs to this weight, or to nobody."""
        if self._remembered is not None and weight in self._remembered:
            return self._remembered[weight]
        return find(self.optimizers, [weight])

    def move_(self, weight: torch.nn.Parameter, source: torch.Tensor) -> None:
        """Moves the weight, its gradient and its state along the slot map, in place."""
        self.move_state_(weight, source)
        take_(weight.data, source)
        if weight.grad is not None:
            take_(weight.grad, source)

    def move_state_(self, weight: torch.nn.Parameter, source: torch.Tensor) -> None:
        """Moves the state alone."""
        for one in self.of(weight):
            take_(one.tensor, source, self.fresh_value(weight, one))

    def renew_(self, weight: torch.nn.Parameter, where: torch.Tensor | None) -> None:
        """Has the state of these elements begin anew; None: of all."""
        for one in self.of(weight):
            whole = torch.ones_like(one.tensor, dtype=torch.bool) if where is None else where.to(one.tensor.device)
            one.tensor.masked_fill_(whole.view_as(one.tensor), self.fresh_value(weight, one))

    def resize_(self, weight: torch.nn.Parameter, state: Sequence[Found], source: torch.Tensor) -> None:
        """Moves the state that `of` found before the weight was resized; source: the slot map."""
        for one in state:
            one.tensor.data = _with(taken(one.tensor, source), source, self.fresh_value(weight, one))

    def fresh_value(self, weight: torch.Tensor, one: Found) -> float:
        """What this state holds of a weight that got no gradient yet."""
        return self._fresh.get(weight, {}).get(one.path, 0.0)


def take_(tensor: torch.Tensor, source: torch.Tensor, fresh: float = 0.0) -> None:
    """tensor[q] = old tensor[source[q]], or `fresh` where source[q] is -1; in place, 1-D."""
    tensor.copy_(_with(taken(tensor, source), source, fresh))


def _with(moved: torch.Tensor, source: torch.Tensor, fresh: float) -> torch.Tensor:
    """The moved values, in place with this one where there is no source."""
    return moved.masked_fill_(source.to(moved.device) < 0, fresh) if fresh else moved
