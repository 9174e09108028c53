"""`LayerView`: what a signal may read of its layer, as matrices."""

from __future__ import annotations

import torch

from sparse_ext.nn import SparseLayer
from sparse_ext.ops import layout_named


class LayerView:
    """A layer's weight, mask and gradient as they are when asked for: [rows, cols], new tensors, 0 where nothing is stored.

    left: bool [rows, cols], what to see of the layer; None: all that is stored.
    """

    def __init__(self, layer: SparseLayer, left: torch.Tensor | None = None) -> None:
        self._layer, self._left = layer, left

    def weight(self) -> torch.Tensor:
        """The values; of a dense weight all of them."""
        return self._matrix(self._layer.weight.detach())

    def mask(self) -> torch.Tensor:
        """bool, True at the positions in use."""
        return self._layer.pattern.mask() if self._left is None else self._left.clone()

    def gradient(self) -> torch.Tensor | None:
        """What `weight.grad` holds; None where there is none."""
        gradient = self._layer.weight.grad
        return None if gradient is None else self._matrix(gradient.detach())

    def _matrix(self, values: torch.Tensor) -> torch.Tensor:
        layer, pattern = self._layer, self._layer.pattern
        if layer.chosen_by is not None:
            return values.view(pattern.rows, pattern.cols).clone()
        whole = layout_named(layer.layout).unpack(values, pattern)
        return whole if self._left is None else whole.masked_fill(~self._left, 0)
