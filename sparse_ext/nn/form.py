"""`Form`: how a layer stores its weight, as plain values. A layer of the same form fits its checkpoint as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from sparse_ext.ops import Rule, layout_named

from .convert import REPLACEMENTS, _use_slow_paths
from .layer import SparseLayer
from .replacement import Replacement


class Form(NamedTuple):
    """What must be known of a layer to build one into which its tensors go, each with its dtype and shape.

    Nothing in it depends on the machine, as the choices of the layout "auto" for a new layer do.

    Attributes:
        layout: its name.
        shape: of the dense layer's weight.
        nnz: how many positions a new layer stores.
        capacity: how many the pattern has room for.
        dense_weight: whether the weight is dense, and the pattern a part of it.
    """

    layout: str
    shape: tuple[int, ...]
    nnz: int
    capacity: int
    dense_weight: bool

    @classmethod
    def of(cls, layer: SparseLayer) -> Form:
        """The form of this layer."""
        dense_weight = layer.chosen_by is not None
        return cls(layer.layout, layer.product.weight_shape, layer._initial_nnz, layer.pattern.capacity, dense_weight)

    def fits(self, dense: Any) -> bool:
        """Whether this is a dense layer that can be replaced, with a weight of this shape."""
        kind = REPLACEMENTS.get(type(dense))
        return kind is not None and kind.product_of(dense).weight_shape == self.shape

    def outline(self, dense: Any) -> Replacement:
        """The layer of this form that replaces a dense one, on the device "meta"; ValueError where there can be none."""
        if not self.fits(dense):
            raise ValueError(f"expected a dense layer with a weight of shape {self.shape}, got {dense}")
        layer = REPLACEMENTS[type(dense)].outline(dense, sparsity=None, layout="dense", capacity=None)
        pattern = layout_named(self.layout).pattern
        empty = pattern.empty(layer.product.rows, layer.product.cols, self.capacity, "meta")
        layer._move_to(self.layout, empty, Rule(pattern.RULES[0]) if self.dense_weight else None)
        layer._initial_nnz, layer.layout_reason = self.nnz, "as in the checkpoint"
        return layer


def give_forms_(model: nn.Module, forms: dict[str, Form]) -> None:
    """Replaces the dense layers of these names by sparse ones on the device "meta", in place; a checkpoint will fill them.

    Raises:
        ValueError: a layer cannot have its form; the message names it, and the model is unchanged.
    """
    layers: dict[str, Replacement] = {}
    for name, form in forms.items():
        try:
            layers[name] = form.outline(model.get_submodule(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    _use_slow_paths(model)
