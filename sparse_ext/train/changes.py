"""How actions are carried out: CHANGES maps each class of actions to the function that changes a layer so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.methods import Action, Choose, Freeze, Regrow, Switch
from sparse_ext.ops import drawn, layout_named
from sparse_ext.ops.pattern import count_bits

from .optimizer_state import take_

if TYPE_CHECKING:
    from .managed import ManagedLayer

Change = tuple[torch.Tensor, torch.Tensor]  # how many positions are new, and how many left, int64 []


def regrow(managed: ManagedLayer, action: Regrow, seed: int) -> Change:
    """Another pattern; the slot map moves all that has a value for each stored position."""
    layer = managed.layer
    pattern, source = layer.pattern.regrown(
        _keep(managed, action, seed), _grow(managed, action, seed), action.drop, action.grow
    )
    layer.write_pattern_(pattern)
    managed.state.move_(layer.weight, source)
    managed.part.follow(source)
    for copy in managed.copies:
        copy.write_pattern_(pattern)
        take_(copy.weight.data, source)
    managed.observation.clear()
    grown = source < 0
    if layer.pattern.nnz < layer.pattern.capacity:  # unused slots have no source either
        grown &= layer.pattern.positions() >= 0
    new = grown.sum()
    return new, new + action.drop - action.grow


def _keep(managed: ManagedLayer, action: Regrow, seed: int) -> torch.Tensor:
    """What ranks the stored positions, [capacity]."""
    layer = managed.layer
    keep = layer.weight.detach()
    if action.keep_by != "magnitude":
        score = managed.observation.score(action.keep_by)
        assert isinstance(score, torch.Tensor)
        keep = layout_named(layer.layout).pack(score, layer.pattern)
    if action.keep_power is None:
        return keep
    return drawn(keep, action.keep_power, ~seed, layer.pattern.positions())  # another stream than that of growth


def _grow(managed: ManagedLayer, action: Regrow, seed: int) -> Any:
    """What ranks the others, as `Pattern.regrown` takes it."""
    if action.grow_by == "random":
        return seed
    score = managed.observation.score(action.grow_by)
    return score if action.grow_power is None else drawn(score, action.grow_power, seed)


def choose(managed: ManagedLayer, action: Choose, seed: int) -> Change:
    """Other positions of a dense weight."""
    before = managed.layer.pattern.bits()
    if managed.layer.chosen_by is None:  # back from another layout
        managed.resize(lambda one: one.store_dense_(managed.home))
    managed.layer.choose_(action.rule)
    for copy in managed.copies:
        copy.write_pattern_(managed.layer.pattern, managed.layer.chosen_by)
    if action.trained is not None:
        managed.part.choose(action)
    return _between(before, managed.layer.pattern.bits())


def switch(managed: ManagedLayer, action: Switch, seed: int) -> Change:
    """Another layout."""
    before = managed.layer.pattern.bits()
    managed.resize(lambda one: one.switch_(action.layout))
    return _between(before, managed.layer.pattern.bits())


def freeze(managed: ManagedLayer, action: Freeze, seed: int) -> Change:
    """The same pattern, of which another part trains."""
    managed.part.freeze(action)
    none = torch.zeros((), dtype=torch.int64, device=managed.layer.weight.device)
    return none, none


def _between(before: torch.Tensor, now: torch.Tensor) -> Change:
    return count_bits(now & ~before), count_bits(before & ~now)


CHANGES: dict[type[Action], Callable[[ManagedLayer, Any, int], Change]] = {
    Regrow: regrow,
    Choose: choose,
    Switch: switch,
    Freeze: freeze,
}
