"""`Rule`: how products choose their part of a dense weight."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

RULE_BYTES = 32


class Rule(NamedTuple):
    """How a dense weight is pruned: which positions products use, and how their values are scaled.

    Attributes:
        name: one of the pattern class's RULES.
        scale: products multiply the used values by this float32. It is computed once, when the rule is first applied.
    """

    name: str
    scale: float = 1.0

    def encoded(self, device: torch.device | str | None) -> torch.Tensor:
        """The rule as text, uint8 [RULE_BYTES]: what a checkpoint holds. No dtype move rounds it."""
        text = f"{self.name} {self.scale!r}".encode()
        return torch.tensor(list(text.ljust(RULE_BYTES)), dtype=torch.uint8, device=device)

    @staticmethod
    def decoded(prefix: str, text: torch.Tensor, known: tuple[str, ...]) -> Rule:
        """The way back; ValueError, which begins with `prefix`, unless it is one of the `known` rules with a finite scale."""
        if text.dtype is not torch.uint8 or text.shape != (RULE_BYTES,):
            raise ValueError(
                f"{prefix}rule: expected torch.uint8 of shape ({RULE_BYTES},), got {text.dtype} of {tuple(text.shape)}"
            )
        words = bytes(text.tolist()).decode(errors="replace").split()
        try:
            name, scale = words[0], float(words[1])
        except (IndexError, ValueError):
            name, scale = " ".join(words), math.nan
        if name not in known or not math.isfinite(scale):
            raise ValueError(f"{prefix}rule: expected one of {', '.join(known)} and a finite scale, got {' '.join(words)!r}")
        return Rule(name, scale)
