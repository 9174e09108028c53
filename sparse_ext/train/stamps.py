"""Which positions a layer's optimizer state belongs to.

A checkpoint that is loaded in the middle of a run (a rollback to the best weights) may bring another pattern. The optimizer's
state then follows by position, unless it was loaded, too. What is loaded apart is compared by stamps.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

from sparse_ext.nn import SparseLayer
from sparse_ext.nn.partly import PartlyTrained
from sparse_ext.nn.plain import release
from sparse_ext.ops import lasting

from .managed import ManagedLayer

# Of the newest Sparsifier that trains a layer: a notebook's cell may make a second one while the first is alive.
_MANAGED: weakref.WeakKeyDictionary[SparseLayer, weakref.ref[ManagedLayer]] = weakref.WeakKeyDictionary()


def claim(managed: ManagedLayer, owner: object) -> None:
    """From now on this is what manages the layer, and no other; until the owner is freed, it follows what the layer loads."""
    layer = managed.layer
    if isinstance(layer, PartlyTrained):
        layer.train_all_()  # whatever another Sparsifier has frozen
    _MANAGED[layer] = weakref.ref(managed)
    # Functions of this module, not of this call: a model that is pickled takes its hooks along.
    for handle in (
        layer.register_load_state_dict_pre_hook(_before_load),
        layer.register_load_state_dict_post_hook(_after_load),
    ):
        weakref.finalize(owner, handle.remove)
    weakref.finalize(owner, _let_go, layer, _MANAGED[layer]).atexit = False


def _let_go(layer: SparseLayer, managed: weakref.ref[ManagedLayer]) -> None:
    """What managed the layer is gone: all of it trains again, unless a later Sparsifier manages it."""
    if _MANAGED.get(layer) is managed and isinstance(layer, PartlyTrained):
        layer.train_all_()
        release(layer)


def is_current(managed: ManagedLayer) -> bool:
    """Whether no later Sparsifier trains the layer."""
    return _managed(managed.layer) in (None, managed)


def stamp(layer: SparseLayer) -> str:
    """A hash of the positions in use, the same in every layout."""
    at = layer.pattern.positions()
    return hashlib.sha256(at[at >= 0].sort().values.cpu().numpy().tobytes()).hexdigest()[:16]


def recognise(managed: ManagedLayer) -> None:
    """If the layer has the positions of the loaded state, that load is complete: weights loaded later are another's."""
    if managed.state_loaded and managed.state_stamp is not None and managed.state_stamp == stamp(managed.layer):
        managed.state_loaded, managed.state_stamp = False, None


def _managed(layer: SparseLayer) -> ManagedLayer | None:
    return reference() if (reference := _MANAGED.get(layer)) is not None else None


@lasting
def _before_load(layer: SparseLayer, *_: Any) -> None:
    if (managed := _managed(layer)) is not None and not layer.weight.is_meta:
        managed.before_load()


@lasting
def _after_load(layer: SparseLayer, _: Any) -> None:
    if (managed := _managed(layer)) is not None:
        managed.after_load()
        recognise(managed)
