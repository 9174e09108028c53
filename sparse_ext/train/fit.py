"""Whether a method can train layers as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sparse_ext.methods import Action, Choose, Method, Time
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import LAYOUTS

from .managed import ManagedLayer


def check(group: Sequence[ManagedLayer], method: Method, start: Mapping[str, Action], replace_step: bool) -> None:
    """ValueError unless the method can train the weights of these layers.

    start: what the method orders at step 0.
    """
    kind = type(method).__name__
    if replace_step and any(one.observation.reads_gradient for one in group):
        raise ValueError(
            f"{kind} ranks weights by the gradients that the optimizer's step has used: expected replace_step=False, got True, "
            "with which it would come before a GradScaler's scale is removed from them"
        )
    if method.freezes and replace_step and not method.dense_weight:
        raise ValueError(f"{kind} freezes weights while optimizers step: expected replace_step=False, got True")
    if not method.dense_weight:
        dense = [one.name for one in group if one.layer.chosen_by is not None or not one.layer.pattern.REGROWS]
        if dense and method.changes_patterns:
            raise ValueError(f"{kind} regrows packed weights, got layers that hold a dense weight: {', '.join(dense)}")
        fixed = [one.name for one in group if not one.layer.pattern.VARIABLE]
        if fixed and method.changes_density:
            raise ValueError(
                f"{kind} changes the density of layers, got layers whose layout has one density only: {', '.join(fixed)}; use "
                "layout='auto' or 'csr', or a method that keeps nnz, such as RigL()"
            )
        bound = [one.name for one in group if not one.layer.pattern.holds_any()]
        if bound and method.any_positions:
            raise ValueError(
                f"{kind} chooses how many positions each row has, got layers whose layout has a say in that: "
                f"{', '.join(bound)}; use layout='auto' or 'csr', or a method that leaves it open, such as RigL()"
            )
        return
    if replace_step:
        raise ValueError(f"{kind} changes what products take, between optimizer steps: expected replace_step=False, got True")
    others = [
        one.name
        for one in group
        if isinstance(action := start.get(one.name), Choose) and action.rule not in one.layer.pattern.RULES
    ]
    if others:
        action = start[others[0]]
        assert isinstance(action, Choose)
        known = ", ".join(repr(name) for name, layout in LAYOUTS.items() if action.rule in layout.pattern.RULES)
        raise ValueError(
            f"{kind} chooses {action.rule!r} of dense weights: expected layers of layout {known}, got others: "
            f"{', '.join(others)}"
        )


def idle(methods: Iterable[Method], total_steps: int) -> list[str]:
    """A sentence for each method that changes something, but at none of a run's steps."""
    told = []
    for method in methods:
        if not method.decides or any(method.is_update(Time(step, total_steps)) for step in range(1, total_steps + 1)):
            continue
        interval, end = (getattr(method, name, None) for name in ("update_interval", "t_end"))
        chosen = "" if interval is None else f" with update_interval={interval}" + ("" if end is None else f" and t_end={end}")
        told.append(
            f"{type(method).__name__} changes nothing in {total_steps} steps{chosen}: give it a smaller interval; a t_end that "
            "is an int is a step number, and 1.0 is the whole run"
        )
    return told


def check_start(group: Sequence[ManagedLayer], method: Method) -> None:
    """ValueError if the method begins a run with denser layers than these are."""
    if thin := [one.name for one in group if method.changes_density and not _is_as_dense(one.layer, method)]:
        raise ValueError(
            f"{type(method).__name__} begins with denser layers than it ends with, got layers that are not: {', '.join(thin)}; "
            "pass method=... to sparsify_, or load this Sparsifier's state to resume"
        )


def _is_as_dense(layer: SparseLayer, method: Method) -> bool:
    positions = max(1, layer.product.rows * layer.product.cols)
    first = round(method.initial_density(layer.target_nnz / positions) * positions)
    return first <= layer.target_nnz or layer.nnz >= first - 1  # one that falls between two numbers may be rounded either way
