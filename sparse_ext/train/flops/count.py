"""`count_flops`: the FLOPs that a callable executes, or those of a model that a Sparsifier trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from sparse_ext.nn import SparseLayer

from ..names import unwrapped
from .counter import flop_counter
from .planned import Planned, planned
from .table import Flops, LayerFlops, Pair
from .tokens import layers_of, measured, one_each
from .work import Entries, work_of

if TYPE_CHECKING:
    from ..sparsifier import Sparsifier


@overload
def count_flops(what: Callable[[], Any]) -> int: ...
@overload
def count_flops(what: nn.Module, sparsifier: Sparsifier, inputs: Any = None) -> Flops: ...
def count_flops(what: Any, sparsifier: Sparsifier | None = None, inputs: Any = None) -> int | Flops:
    """Counts the FLOPs of one call of a function; or, of a model and its Sparsifier, those of a training step.

    `count_flops(function)` calls it once, without arguments, and counts what is executed: matrix products, attention and
    convolutions, forward and backward. A sparse product counts 2 per stored entry and token; the dense gradient for growth
    counts in full; all else counts as in `torch.utils.flop_counter`. Element-wise operations and pattern updates do not count.

    `count_flops(model, sparsifier, inputs)` says what the run costs beside the dense model's, as RigL's code counts it: 2 FLOPs
    for each entry and token, a forward product and two of as much in the backward, also for a first layer.

    - *planned*: the method's plan, carried out on plain numbers from the first step to the last. A step that observes the dense
      gradient costs that instead of the sparse one.
    - *executed*: what the Sparsifier's steps so far have cost. A step that observes the dense gradient costs both, as the
      kernels compute both.

    Zeros do not count, though kernels may multiply them where that is faster, as layouts "auto" and "masked" do. Rows that SAT
    trains of a weight at full length count as a whole.
    `count_flops(function)` tells what they do.

    Args:
        what: the function, or the model.
        sparsifier: trains the model's sparse layers.
        inputs: a batch, which runs forward once: a tensor, a tuple of arguments, or a mapping of keywords. Without it each
            layer is counted for one token; then all have to be linear.

    Returns:
        The number of floating-point operations, a multiply-add counts as 2; or a `Flops`: `print` it, or read its rows.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the Sparsifier trains another model's layers, or inputs are missing, or reach no sparse layer.

    Example:
        flops = count_flops(lambda: model(x).sum().backward())
        print(count_flops(model, sparsifier, x))
    """
    if sparsifier is None and inputs is not None:
        raise ValueError("count_flops: expected a Sparsifier together with inputs, got none")
    if isinstance(what, nn.Module) and not hasattr(sparsifier, "_history"):
        got = "none" if sparsifier is None else type(sparsifier).__name__
        raise TypeError(f"count_flops: expected a function without arguments, or a model with its Sparsifier, got {got}")
    if inputs is not None and not isinstance(inputs, torch.Tensor | tuple | list | Mapping):
        raise TypeError(f"count_flops: expected inputs as a tensor, a tuple or a mapping, got {type(inputs).__name__}")
    if sparsifier is None:
        with flop_counter() as counter:
            what()
        return int(counter.get_total_flops())
    return _of_training(what, sparsifier, inputs)


def _of_training(model: nn.Module, sparsifier: Sparsifier, inputs: Any) -> Flops:
    managed = {one.name: one for one in sparsifier._layers}
    present = layers_of(unwrapped(model))
    if lost := [name for name, one in managed.items() if present.get(name) is not one.layer]:
        raise ValueError(f"count_flops: expected the model that the Sparsifier trains, got one without its {', '.join(lost)}")
    tokens = one_each(unwrapped(model)) if inputs is None else measured(model, inputs, managed)
    plans = planned(sparsifier._groups, sparsifier.total_steps)
    rows = []
    for name, layer in tokens.layers.items():
        count = tokens.counts[name]
        if name in managed:
            rows.append(_managed(name, count, layer, plans[name], sparsifier))
        elif isinstance(layer, SparseLayer) or count:  # a dense layer that is not called multiplies nothing by itself
            rows.append(_constant(name, count, layer))
    if tokens.other:
        forward, training = Pair(tokens.other, tokens.other), Pair(3 * tokens.other, 3 * tokens.other)
        rows.append(
            LayerFlops("other products", None, False, 0, Pair(1.0, 1.0), forward, training, *forward[:1], *training[:1])
        )
    return Flops(tuple(rows), sparsifier._step, sparsifier.total_steps, inputs is None)


def _managed(name: str, tokens: int, layer: SparseLayer, plan: Planned, sparsifier: Sparsifier) -> LayerFlops:
    """A row of a layer that the Sparsifier trains."""
    size, trains, total = plan.end.positions, layer.weight.requires_grad, sparsifier.total_steps
    done, steps = sparsifier._history.executed(name, sparsifier._step)
    density = Pair(
        int(plan.sums.forward) / max(1, size * total), int(done.sums.forward) / max(1, size * steps) if steps else None
    )
    training = Pair(
        _step(tokens, plan.sums, 0, trains) / total,
        _step(tokens, done.sums, done.observed * size, trains) / steps if steps else None,
    )
    forward = Pair(2 * tokens * int(plan.end.nnz), 2 * tokens * layer.nnz)
    return LayerFlops(
        name, tokens, isinstance(layer, SparseLayer), size, density, forward, training, *_dense(tokens, size, trains)
    )


def _constant(name: str, tokens: int, layer: Any) -> LayerFlops:
    """A row of a layer that stays as it is: a dense one, or a sparse one that nobody trains."""
    sparse, trains = isinstance(layer, SparseLayer), layer.weight.requires_grad
    size = layer.product.rows * layer.product.cols if sparse else layer.weight.numel()
    entries = work_of(layer).entries if sparse else Entries(size, size, size)
    density, training = int(entries.forward) / max(1, size), _step(tokens, entries, 0, trains)
    forward = 2 * tokens * int(entries.forward)
    same = [Pair(value, value) for value in (density, forward, training)]
    return LayerFlops(name, tokens, sparse, size, same[0], same[1], same[2], *_dense(tokens, size, trains))


def _step(tokens: int, entries: Entries, observed: int, trains: bool) -> int:
    """FLOPs of the three products; observed: entries of dense gradients for growth."""
    of_weight = int(entries.grad_weight) + observed if trains else 0
    return 2 * tokens * (int(entries.forward) + int(entries.grad_input) + of_weight)


def _dense(tokens: int, size: int, trains: bool) -> tuple[int, int]:
    return 2 * tokens * size, _step(tokens, Entries(size, size, size), 0, trains)
