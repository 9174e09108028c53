"""`LayerView`: what a signal may read of its layer, as matrices."""

from __future__ import annotations

import torch

from sparse_ext.nn import SparseLayer
from sparse_ext.ops import layout_named


class LayerView:
    """A layer's weight, mask and gradient as they are when asked for: [rows, cols], new tensors, 0 where nothing is stored.

    Attributes:
        left: bool [rows, cols], what to see of the layer; None: all that is stored.
        scale: by what `weight.grad` is multiplied, as a GradScaler's step of a fused optimizer may leave it; None: by nothing.
    """

    def __init__(self, layer: SparseLayer) -> None:
        self._layer = layer
        self.left: torch.Tensor | None = None
        self.scale: torch.Tensor | None = None

    def weight(self) -> torch.Tensor:
        """The values; of a dense weight all of them."""
        return self._matrix(self._layer.weight.detach())

    def mask(self) -> torch.Tensor:
        """bool, True at the positions in use."""
        return self._layer.pattern.mask() if self.left is None else self.left.clone()

    def gradient(self) -> torch.Tensor | None:
        """What `weight.grad` holds, without the scale of a GradScaler; None where there is none."""
        gradient = self._layer.weight.grad
        if gradient is None:
            return None
        matrix = self._matrix(gradient.detach())
        return matrix if self.scale is None else matrix / self.scale.to(matrix.device)

    @property
    def has_gradient(self) -> bool:
        """Whether `gradient` gives one."""
        return self._layer.weight.grad is not None

    def _matrix(self, values: torch.Tensor) -> torch.Tensor:
        layer, pattern = self._layer, self._layer.pattern
        if layer.chosen_by is not None:
            return values.view(pattern.rows, pattern.cols).clone()
        whole = layout_named(layer.layout).unpack(values, pattern)
        return whole if self.left is None else whole.masked_fill(~self.left, 0)
