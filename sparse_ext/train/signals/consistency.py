"""The signals of EST-DGM: how large gradients are, and how consistent their signs; alone, and together with the weight."""

from __future__ import annotations

import torch

from .base import Signal


class Consistency(Signal):
    """q = (mean |g|)^magnitude_power * (|sum of sign(g)| / n)^sign_power over the method's n = gradient_steps steps."""

    name = "consistency"

    def start(self) -> None:
        self.magnitude: torch.Tensor | None = None
        self.signs: torch.Tensor | None = None

    def observe(self, tile: torch.Tensor, rows: range) -> None:
        if self.magnitude is None or self.signs is None:
            self.magnitude, self.signs = self.zeros(), self.zeros()
        self.magnitude[rows.start : rows.stop] += tile.abs()
        self.signs[rows.start : rows.stop] += tile.sign()

    def score(self) -> torch.Tensor:
        if self.magnitude is None or self.signs is None:
            return self.zeros()
        steps, method = self.method.gradient_steps, self.method
        size, agreement = self.magnitude / steps, self.signs.abs() / steps
        return size.pow(method.magnitude_power) * agreement.pow(method.sign_power)

    def updated(self) -> None:
        self.magnitude = self.signs = None


class ConsistencyBlend(Consistency):
    """|w| / mean |w| + blend * q / mean q: the means over the positions in use, and over all."""

    name = "consistency blend"

    def score(self) -> torch.Tensor:
        q, mask = super().score(), self.layer.mask()
        weight = self.layer.weight().abs().to(q.dtype)
        mean = weight[mask].mean() if mask.any() else weight.new_ones(())
        return _over(weight, mean) + self.method.blend * _over(q, q.mean())


def _over(values: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The values, which are not negative, over their mean; 0 where that is 0."""
    return torch.where(mean > 0, values / mean, torch.zeros_like(values))
