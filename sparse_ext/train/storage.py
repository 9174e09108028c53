"""The storage of a layer follows its density, where the layout that it was asked for may choose the storage.

After every update that changes how many positions are in use, that layout is asked again. So a layer that begins dense and ends
sparse changes from a weight of full length to a packed one in the midst of the run: values, gradients, optimizer state and
tracked copies move along the slot map, within the update. Compiled code recompiles; a CUDA graph must be captured again. A
layer that was asked for a layout of one storage keeps its tensors where they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sparse_ext.methods import Regrow, Time
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import layout_named

if TYPE_CHECKING:
    from .managed import ManagedLayer


def may_store_otherwise(layer: SparseLayer) -> bool:
    """Whether the layer's storage may be chosen anew: its layout has a choice, and the weight is packed."""
    return bool(layout_named(layer.asked).STORAGES) and layer.chosen_by is None


def may_resize(layer: SparseLayer) -> bool:
    """Whether the layer is given room in the course of the run, so that it needs none at first."""
    return may_store_otherwise(layer) and not layer.keeps_length


def is_exact(action: Regrow) -> bool:
    """Whether the action changes nnz by just what it grows and drops; one that also evens out rows may not."""
    return type(action) is Regrow


def room_of(layer: SparseLayer) -> int:
    """How many positions the layer can hold, after its weight has been made longer where that is possible."""
    return layer.product.rows * layer.product.cols if may_resize(layer) else layer.capacity


def give_room(managed: ManagedLayer, action: Regrow, time: Time) -> None:
    """Extends a packed weight that this action would make too short."""
    layer = managed.layer
    if (is_exact(action) and action.grow <= action.drop) or not may_resize(layer):
        return
    spare = math.floor(managed.method.spare_per_row * layer.product.rows)
    positions = layer.product.rows * layer.product.cols
    if min(positions, layer.nnz + action.grow - action.drop + spare) > layer.capacity:
        room = _room(managed, layer.nnz + action.grow - action.drop, time)
        managed.resize(lambda one: one.enlarge_(room))


def follow_density(managed: ManagedLayer, time: Time) -> None:
    """Stores the layer as its layout would store a new one of this density, and makes a packed weight shorter if that pays."""
    layer, nnz = managed.layer, managed.layer.nnz
    chosen, reason = layer.storage_for(nnz)
    room = _room(managed, nnz, time)
    if layer.keeps_length and _length(layer, chosen, room) != layer.capacity:
        room = layer.capacity
        fits = _length(layer, chosen, room) == room
        chosen = chosen if fits else layer.layout
        kept = f"has room for {room}" if fits else f"stays {layer.layout!r}"
        reason += f"; {kept}, as its weight must keep its length where several processes train"
    if chosen != layer.layout or 2 * _length(layer, chosen, room) <= layer.capacity:
        return managed.resize(lambda one: one.store_as_(chosen, room, reason))
    for one in (layer, *managed.copies):
        one.layout_reason = reason
    return None


def _room(managed: ManagedLayer, nnz: int, time: Time) -> int:
    """How many positions a layer with so many should have room for."""
    rows, method = managed.layer.product.rows, managed.method
    positions = rows * managed.layer.product.cols
    room = max(nnz, round(method.room_for(nnz / max(1, positions), time) * positions))
    return min(positions, room + math.floor(method.spare_per_row * rows))


def _length(layer: SparseLayer, layout: str, capacity: int) -> int:
    """How long a weight with this capacity is in a layout."""
    return layout_named(layout).pattern.empty(layer.product.rows, layer.product.cols, capacity, "meta").capacity
