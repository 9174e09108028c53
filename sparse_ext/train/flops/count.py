"""`count_flops`: the FLOPs that a callable executes, or those of a model that a Sparsifier trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from ..names import unwrapped
from .counter import flop_counter
from .planned import planned
from .rows import rows_of
from .table import Flops
from .tokens import layers_of, measured, one_each

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
    rows = rows_of(tokens, plans, sparsifier.total_steps, lambda name: sparsifier._history.executed(name, sparsifier._step))
    return Flops(rows, sparsifier._step, sparsifier.total_steps, inputs is None)
