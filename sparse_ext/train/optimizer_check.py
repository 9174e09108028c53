"""Whether a Sparsifier's optimizers hold its weights, and can follow changing patterns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer

from .optimizer_state import OptimizerState
from .probe import probe
from .wrappers import group_of


def check_layers(state: OptimizerState, layers: Mapping[str, SparseLayer], methods: Mapping[str, Method]) -> None:
    """Has the state learn how optimizers begin that of new elements of the layers' weights; warns about decay.

    Args:
        methods: {layer's name: method}; state of weights whose method never changes anything need not follow.

    Raises:
        ValueError: not every weight is held by exactly one optimizer, or is trainable, or its state cannot follow.
    """
    groups = _groups(state.optimizers, layers)
    if untrainable := [name for name, layer in layers.items() if layer.weight.is_inference()]:
        raise ValueError(
            f"expected weights that can be trained, got inference tensors in {', '.join(untrainable)}: build, copy or load the "
            "model outside of inference mode"
        )
    for name, layer in layers.items():
        twin = next(other for other, module in layers.items() if module.weight is layer.weight)
        if twin != name:
            raise ValueError(f"expected a weight of its own for every sparse layer, got one shared by {twin!r} and {name!r}")
    for name, layer in layers.items():
        if methods[name].is_update.__func__ is Method.is_update:  # type: ignore[attr-defined]
            continue
        optimizer = state.holder(layer.weight)
        probed = probe(optimizer, layer.weight)
        if probed.reason is not None and not state.trusted:
            raise ValueError(_refusal(type(optimizer).__name__, probed.reason))
        state.learn(layer.weight, probed.fresh)
    state.check([layer.weight for layer in layers.values()])
    _warn_of_decay(state.optimizers, groups)


def _refusal(kind: str, reason: str) -> str:
    return (
        f"expected an optimizer whose state has one value per weight (SGD, AdamW, ...) and can follow a changing pattern, got "
        f"{kind}: {reason}; use such an optimizer for the sparse weights (a list of optimizers is possible), or pass "
        "trust_optimizer=True if you know that it trains each weight by itself"
    )


def _groups(optimizers: Sequence[Any], layers: Mapping[str, SparseLayer]) -> dict[str, Mapping[str, Any]]:
    """{layer's name: the parameter group that holds its weight}; ValueError unless it is exactly one."""
    for one in optimizers:
        if not hasattr(one, "param_groups"):
            raise ValueError(_refusal(type(one).__name__, "it has no param_groups"))
    kinds = " and ".join(type(one).__name__ for one in optimizers) or "none"
    holders = {
        name: [group for one in optimizers if (group := group_of(one, layer.weight)) is not None]
        for name, layer in layers.items()
    }
    if missing := [name for name, groups in holders.items() if not groups]:
        raise ValueError(
            f"expected an optimizer that holds the weight of every sparse layer, got {kinds} without "
            f"{', '.join(missing)}; build it from model.parameters() after sparsify_"
        )
    if shared := [name for name, groups in holders.items() if len(groups) > 1]:
        raise ValueError(
            f"expected every sparse weight in exactly one optimizer, got several for {', '.join(shared)}; give each optimizer "
            "parameters of its own"
        )
    return {name: groups[0] for name, groups in holders.items()}


def _warn_of_decay(optimizers: Sequence[Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
    decays = any(group.get("weight_decay", 0) for optimizer in optimizers for group in optimizer.param_groups)
    undecayed = [name for name, group in groups.items() if not group.get("weight_decay", 0)]
    if decays and undecayed:
        warnings.warn(
            f"no weight decay for the sparse weights of {', '.join(undecayed)}, though other parameters decay: they are 1-D, "
            "and recipes that test `ndim < 2` put them among biases and norms",
            stacklevel=4,
        )
