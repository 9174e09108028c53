"""Names of a model's layers without what wraps the model, so that a wrapped model's state is the plain one's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sparse_ext.nn import SparseLayer, sparse_layers

# Attributes that only wrappers have: of torch.compile, Lightning Fabric, FSDP, and activation checkpointing.
_OF_WRAPPERS = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Classes, by name, that hold what they wrap as `module`. Parts of a model may be called so, too.
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "AveragedModel", "DeepSpeedEngine"}


def named_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """{name: layer}, all sparse layers of a model, named as if nothing wrapped the model or a part of it.

    Raises:
        ValueError: two layers would have the same name, or one has no values yet.
    """
    return named(model, with_values(sparse_layers(model)))


def with_values(layers: dict[str, Any]) -> dict[str, Any]:
    """These layers, {name: layer}; ValueError if one is on "meta"."""
    for name, layer in layers.items():
        if layer.weight.is_meta:
            raise ValueError(
                f"expected layers with values, got {name!r} on meta; before this, call to_empty(device=...) and initialise the "
                "model, or load a checkpoint with assign=True"
            )
    return layers


def named(model: nn.Module, layers: Mapping[str, Any]) -> dict[str, Any]:
    """These layers, {name in the model: layer}, named so; ValueError if two would have the same name."""
    found: dict[str, str] = {}
    for full in layers:
        name = plain_name(model, full)
        if (other := found.setdefault(name, full)) != full:
            raise ValueError(
                f"expected layers of different names, got two named {name!r}: {other!r} and {full!r}; rename a part"
            )
    return {name: layers[full] for name, full in found.items()}


def plain_name(model: nn.Module, name: str) -> str:
    """The name without the attributes in which wrappers hold what they wrap."""
    kept, holder = [], model
    for part in name.split("."):
        if not _wraps(holder, part):
            kept.append(part)
        holder = holder.get_submodule(part)
    return ".".join(kept)


def unwrapped(model: nn.Module) -> nn.Module:
    """What all wrappers around the whole model hold in the end."""
    while inner := next((part for name, part in model.named_children() if _wraps(model, name)), None):
        model = inner
    return model


def _wraps(holder: nn.Module, attribute: str) -> bool:
    """Whether the module is a wrapper that holds what it wraps in this attribute."""
    return attribute in _OF_WRAPPERS or (attribute == "module" and any(c.__name__ in _WRAPPERS for c in type(holder).__mro__))


def shortened(name: str) -> str:
    """The name in a Sparsifier's state of version 1 or 2, which dropped every part called `module`."""
    return ".".join(part for part in name.split(".") if part not in ("module", *_OF_WRAPPERS))
