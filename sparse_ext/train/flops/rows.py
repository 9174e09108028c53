"""The rows of a `Flops`: what each layer of a model costs, as planned and as executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sparse_ext.nn import SparseLayer

from .planned import Planned
from .table import LayerFlops, Pair
from .tokens import Tokens
from .work import Entries, Executed, work_of

Ran = Callable[[str], tuple[Executed, int]]  # name -> what the layer has cost so far, and in how many steps


def rows_of(tokens: Tokens, plans: Mapping[str, Planned], total_steps: int, ran: Ran | None = None) -> tuple[LayerFlops, ...]:
    """A row for each layer, and one for all other products.

    Args:
        plans: {name: its run} of the layers that a method trains; the others stay as they are.
        ran: None: there was no step yet.
    """
    rows = []
    for name, layer in tokens.layers.items():
        count = tokens.counts[name]
        if name in plans:
            rows.append(_trained(name, count, layer, plans[name], total_steps, ran))
        elif isinstance(layer, SparseLayer) or count:  # a dense layer that is not called multiplies nothing by itself
            rows.append(_constant(name, count, layer))
    if tokens.other:
        forward, training = Pair(tokens.other, tokens.other), Pair(3 * tokens.other, 3 * tokens.other)
        rows.append(
            LayerFlops("other products", None, False, 0, Pair(1.0, 1.0), forward, training, *forward[:1], *training[:1])
        )
    return tuple(rows)


def step_flops(tokens: int, entries: Entries, trains: bool, observed: int = 0) -> int:
    """FLOPs of the three products of one step, or of all steps whose entries these are.

    Args:
        trains: whether the weight needs a gradient.
        observed: entries of dense gradients for growth, beside the weight's own.
    """
    of_weight = int(entries.grad_weight) + observed if trains else 0
    return 2 * tokens * (int(entries.forward) + int(entries.grad_input) + of_weight)


def _trained(name: str, tokens: int, layer: Any, plan: Planned, total_steps: int, ran: Ran | None) -> LayerFlops:
    """A row of a layer that a method trains."""
    size, trains = plan.end.positions, layer.weight.requires_grad
    done, steps = (None, 0) if ran is None else ran(name)
    density = training = None
    if done is not None and steps:
        density = int(done.sums.forward) / max(1, size * steps)
        training = step_flops(tokens, done.sums, trains, done.observed * size) / steps
    return LayerFlops(
        name,
        tokens,
        isinstance(layer, SparseLayer),
        size,
        Pair(int(plan.sums.forward) / max(1, size * total_steps), density),
        Pair(2 * tokens * int(plan.end.nnz), 2 * tokens * layer.nnz),
        Pair(step_flops(tokens, plan.sums, trains) / total_steps, training),
        *_dense(tokens, size, trains),
    )


def _constant(name: str, tokens: int, layer: Any) -> LayerFlops:
    """A row of a layer that stays as it is: a dense one, or a sparse one that nobody trains."""
    sparse, trains = isinstance(layer, SparseLayer), layer.weight.requires_grad
    size = layer.product.rows * layer.product.cols if sparse else layer.weight.numel()
    entries = work_of(layer).entries if sparse else Entries(size, size, size)
    density, training = int(entries.forward) / max(1, size), step_flops(tokens, entries, trains)
    forward = 2 * tokens * int(entries.forward)
    same = [Pair(value, value) for value in (density, forward, training)]
    return LayerFlops(name, tokens, sparse, size, same[0], same[1], same[2], *_dense(tokens, size, trains))


def _dense(tokens: int, size: int, trains: bool) -> tuple[int, int]:
    return 2 * tokens * size, step_flops(tokens, Entries(size, size, size), trains)
