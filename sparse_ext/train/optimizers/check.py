"""Whether a Sparsifier's optimizers hold its weights, and can follow changing patterns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer
from sparse_ext.nn.foreign import is_computed

from ..managed import ManagedLayer
from .probe import probe
from .state import OptimizerState
from .wrappers import group_of, leaves

_COMPUTED = (
    "expected sparse weights that are Parameters, got computed ones in {} (by a parametrization, pruning or a norm of "
    "torch.nn.utils), whose patterns cannot change; remove that (remove_parametrizations(layer, 'weight'), prune.remove), use "
    "sparse_ext.utils.weight_norm or spectral_norm, or give these, beside layers that change, the method Static()"
)


def trainable(everyone: Mapping[str, SparseLayer], needed: bool = True) -> dict[str, SparseLayer]:
    """The layers whose weight is a Parameter that needs a gradient; ValueError if there is none, and one is needed."""
    layers = {name: layer for name, layer in everyone.items() if not is_computed(layer) and layer.weight.requires_grad}
    if not needed:
        return layers
    if not layers and (computed := [name for name, layer in everyone.items() if _computes_trained(layer)]):
        raise ValueError(_COMPUTED.format(", ".join(computed)))
    if not layers:
        raise ValueError("expected a model with trainable sparse layers, got none; call sparsify_(model, ...) first")
    return layers


def refuse_computed(layers: Sequence[ManagedLayer]) -> None:
    """ValueError for a weight that is trained by way of other Parameters: no change of its pattern would reach these."""
    changing = [managed for managed in layers if any(part.changes_patterns or part.freezes for part in managed.parts)]
    if computed := [managed.name for managed in changing if _computes_trained(managed.layer)]:
        raise ValueError(_COMPUTED.format(", ".join(computed)))


def _computes_trained(layer: SparseLayer) -> bool:
    return is_computed(layer) and any(p.requires_grad for name, p in layer.named_parameters() if name != "bias")


def checked_state(
    optimizers: Sequence[Any], layers: Mapping[str, SparseLayer], methods: Mapping[str, Method], trusted: bool
) -> OptimizerState:
    """The optimizers' state of the layers' weights, whose new elements begin as those of a new parameter; warns about decay.

    Args:
        methods: {layer's name: method}.
        trusted: takes optimizers whose state may not be able to follow.

    Raises:
        ValueError: not every weight is held by exactly one optimizer, or is trainable, or its state cannot follow.
    """
    groups = _groups(optimizers, layers)
    if untrainable := [name for name, layer in layers.items() if layer.weight.is_inference()]:
        raise ValueError(
            f"expected weights that can be trained, got inference tensors in {', '.join(untrainable)}: build, copy or load the "
            "model outside of inference mode"
        )
    for name, layer in layers.items():
        twin = next(other for other, module in layers.items() if module.weight is layer.weight)
        if twin != name:
            raise ValueError(f"expected a weight of its own for every sparse layer, got one shared by {twin!r} and {name!r}")
    state = OptimizerState(optimizers, trusted)
    admit(state, layers, methods)
    _warn_of_decay(optimizers, {name: group for name, group in groups.items() if layers[name].weight.dim() == 1})
    return state


def admit(state: OptimizerState, layers: Mapping[str, SparseLayer], methods: Mapping[str, Method]) -> None:
    """Tries out the optimizers of these layers, and has the state of new elements begin as the trial shows.

    ValueError if their state cannot follow. Of a layer whose method never changes anything it need not.
    """
    changing = {name: layer.weight for name, layer in layers.items() if methods[name].decides}
    for name, weight in changing.items():
        optimizer = state.holder(weight)
        bare = [type(one).__name__ for one in leaves(optimizer) if not hasattr(one, "_optimizer_step_post_hooks")]
        if bare and any(part.freezes for part in methods[name].parts):
            raise ValueError(
                f"expected an optimizer with hooks of its steps, as those of torch.optim have, got {bare[0]}: frozen weights "
                "are kept from it by these"
            )
        probed = probe(optimizer, weight)
        if probed.reason is not None and not state.trusted:
            raise ValueError(_refusal(type(optimizer).__name__, probed.reason))
        state.learn(weight, probed.fresh)
    state.check(list(changing.values()))


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
