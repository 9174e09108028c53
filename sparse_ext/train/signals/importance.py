"""`WeightAndGradient`: weights and their own gradients; no dense gradient is computed for it."""

from __future__ import annotations

import torch

from .base import Signal


class WeightAndGradient(Signal):
    """|w| + lambda |g| of the stored weights w and their gradients g (Yuan et al. 2021, MEST).

    The method's field `gradient_weight` is lambda.
    """

    name = "weight and gradient"
    OBSERVES = False
    READS_GRADIENT = True

    def is_ready(self) -> bool:
        return self.layer.has_gradient

    def score(self) -> torch.Tensor:
        weight, gradient = self.layer.weight(), self.layer.gradient()
        wide = torch.promote_types(weight.dtype, torch.float32)
        size = weight.to(wide).abs()
        return size if gradient is None else size.add_(gradient.to(wide).abs(), alpha=self.method.gradient_weight)
