"""`Form`: how a layer stores its weight, as plain values. A layer of the same form fits its checkpoint as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from sparse_ext.ops import Product, Rule, kernels_of, layout_named

from .convert import use_slow_paths
from .layer import SparseLayer
from .table import replacement_of


class Form(NamedTuple):
    """What must be known of a layer to build one into which its tensors go, each with its dtype and shape.

    Nothing in it depends on the machine, as the choices of the layout "auto" for a new layer do.

    Attributes:
        layout: the layout's name.
        shape: of the dense layer's weight.
        nnz: how many positions a new layer stores.
        capacity: how many the pattern has room for.
        dense_weight: whether the weight is dense, and the pattern a part of it.
        target: how many positions it was made for; None: nnz.
        asked: the layout that it was asked for; "": this one.
    """

    layout: str
    shape: tuple[int, ...]
    nnz: int
    capacity: int
    dense_weight: bool
    target: int | None = None
    asked: str = ""

    @classmethod
    def of(cls, layer: SparseLayer) -> Form:
        """The form of this layer."""
        dense_weight, asked = layer.chosen_by is not None, "" if layer.asked == layer.layout else layer.asked
        counts = layer._initial_nnz, layer.pattern.capacity
        return cls(layer.layout, layer.product.weight_shape, *counts, dense_weight, layer._target_nnz, asked)

    def written(self) -> dict[str, Any]:
        """Its fields by name, without those that say nothing: so earlier versions can read it."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults.get(name, ...)}

    def fits(self, layer: Any) -> bool:
        """Whether this is a sparse layer, or a dense one that can be replaced, with a weight of this shape."""
        product = _product_of(layer)
        return product is not None and product.weight_shape == self.shape

    def check(self, layer: Any) -> None:
        """ValueError unless the layer can have this form."""
        kind = layout_named(self.layout)
        if not self.fits(layer):
            raise ValueError(f"expected a layer with a weight of shape {self.shape}, got {layer}")
        kernels_of(kind, _product_of(layer))
        if self.dense_weight and not kind.pattern.RULES:
            raise ValueError(f"expected a layout that takes a part of a dense weight, got {self.layout!r}")

    def given_to(self, layer: Any) -> SparseLayer:
        """A sparse layer of this form on the device "meta", in place of a dense one; or the sparse one that is given."""
        kind = replacement_of(layer)
        if kind is not None:
            layer = kind.outline(layer, layer.weight, sparsity=None, layout="dense", capacity=None)
        pattern = layout_named(self.layout).pattern
        empty = pattern.empty(layer.product.rows, layer.product.cols, self.capacity, layer.weight.device)
        layer._move_to(self.layout, empty, Rule(pattern.RULES[0]) if self.dense_weight else None)
        layer._asked, layer.layout_reason = self.asked or self.layout, "as in the checkpoint"
        layer._initial_nnz, layer._target_nnz = self.nnz, self.target
        return layer


def _product_of(layer: Any) -> Product | None:
    """The product of a sparse layer, or of one that would replace this dense one; None if nothing would."""
    if isinstance(layer, SparseLayer):
        return layer.product
    kind = replacement_of(layer)
    return None if kind is None else kind.product_of(layer)


def give_forms_(model: nn.Module, forms: dict[str, Form]) -> None:
    """Gives the layers of these names their forms, in place, for a checkpoint to fill them. Dense ones become sparse.

    Args:
        model: the layers are on the device "meta".
        forms: {name: form}.

    Raises:
        ValueError: a layer cannot have its form; the message names it, and the model is unchanged.
    """
    for name, form in forms.items():
        try:
            form.check(model.get_submodule(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    before = {name: model.get_submodule(name) for name in forms}
    after = {before[name]: form.given_to(before[name]) for name, form in forms.items()}
    for name, module in list(model.named_modules(remove_duplicate=False)):  # a layer may have two names
        if module in after:
            model.set_submodule(name, after[module])
    use_slow_paths(model)
