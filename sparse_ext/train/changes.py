"""How actions are carried out: CHANGES maps each class of actions to the function that changes a layer so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sparse_ext.methods import Action, Choose, Freeze, Regrow, RegrowEvenly, Switch
from sparse_ext.ops import drawn, layout_named, random_score, with_first
from sparse_ext.ops.pattern import count_bits

from .fan_in import even

if TYPE_CHECKING:
    from .managed import ManagedLayer

Change = tuple[torch.Tensor, torch.Tensor]  # how many positions are new, and how many left, int64 []


def regrow(managed: ManagedLayer, action: Regrow, seed: int) -> Change:
    """Another pattern; the slot map moves all that has a value for each stored position."""
    layer = managed.layer
    keep = _keep(managed, action, seed)
    pattern, source = layer.pattern.regrown(keep, _grow(managed, action, seed, keep), action.drop, action.grow)
    new = managed.write_pattern_(pattern, source)
    if action.fresh_state:
        managed.state.renew_(layer.weight, managed.part.slots())
    return new, new + action.drop - action.grow


def _keep(managed: ManagedLayer, action: Regrow, seed: int) -> torch.Tensor:
    """What ranks the stored positions, [capacity]."""
    layer = managed.layer
    keep = layer.weight.detach()
    if action.keep_by != "magnitude":
        score = managed.observation.score(action.keep_by)
        assert isinstance(score, torch.Tensor)
        keep = layout_named(layer.layout).pack(score, layer.pattern)
    if action.keep_power is not None:
        keep = drawn(keep, action.keep_power, ~seed, layer.pattern.positions())  # another stream than that of growth
    return keep.double() if action.unfired_first else keep  # the dtype goes with that of growth, and changes no order


def _grow(managed: ManagedLayer, action: Regrow, seed: int, keep: torch.Tensor) -> Any:
    """What ranks the others, as `Pattern.regrown` takes it."""
    pattern = managed.layer.pattern
    if action.grow_by == "random" and not action.unfired_first:
        return seed
    if action.grow_by == "random":
        score = random_score(pattern.rows, pattern.cols, seed, managed.layer.weight.device)
    else:
        left = pattern.kept(keep, action.drop) if action.after_drop else None
        score = managed.observation.score(action.grow_by, left)
        score = score if action.grow_power is None else drawn(score, action.grow_power, seed)
    return with_first(score, ~managed.ever_in_use()) if action.unfired_first else score


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


def regrow_evenly(managed: ManagedLayer, action: RegrowEvenly, seed: int) -> Change:
    """Another pattern, with as many positions in every row that is in use."""
    pattern = managed.layer.pattern
    before = pattern.nnz
    other, source = even(pattern, managed.layer.weight.detach(), managed.observation.score(action.grow_by), action)
    new = managed.write_pattern_(other, source)
    return new, new + before - other.nnz


CHANGES: dict[type[Action], Callable[[ManagedLayer, Any, int], Change]] = {
    Regrow: regrow,
    RegrowEvenly: regrow_evenly,
    Choose: choose,
    Switch: switch,
    Freeze: freeze,
}
