"""What a Sparsifier's method has ordered, for tests of methods whose plans they do not know."""

from __future__ import annotations

from typing import Any

import sparse_ext as sx
from sparse_ext.methods import Action, Method, Regrow

Orders = dict[str, Action]


def recorded(sparsifier: sx.Sparsifier) -> list[Orders]:
    """A list to which every update from now on adds {layer: action}."""
    made, carry_out = [], sparsifier._carry_out

    def recording(orders: Any, undo: Any) -> bool:
        made.append({managed.name: action for managed, action in orders})
        return carry_out(orders, undo)

    sparsifier._carry_out = recording
    return made


def more(method: Method, action: Action | None) -> int | None:
    """By how much an action changes nnz; None: it does not say."""
    if type(action) is Regrow:
        return action.grow - action.drop
    return None if action is not None and method.changes_density else 0
