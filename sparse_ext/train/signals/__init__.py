"""What methods rank positions by: statistics of dense gradients, and what a layer holds. SIGNALS maps names to classes."""

from __future__ import annotations

from typing import Any

from .base import Signal
from .consistency import Consistency, ConsistencyBlend
from .gradient import GradientSum
from .importance import WeightAndGradient
from .links import LinkPrediction
from .momentum import Momentum
from .view import LayerView

RESERVED = "importance"

SIGNALS: dict[str, type[Signal]] = {
    kind.name: kind for kind in (GradientSum, Momentum, WeightAndGradient, LinkPrediction, Consistency, ConsistencyBlend)
}


def signal_classes(signals: tuple[str | type[Any], ...]) -> dict[str, type[Signal]]:
    """{name: class} of a method's signals; ValueError if a name is unknown."""
    found: dict[str, type[Signal]] = {}
    for signal in signals:
        kind = SIGNALS.get(signal) if isinstance(signal, str) else signal
        if kind is None:
            raise ValueError(f"expected signals among {', '.join(map(repr, SIGNALS))}, or classes, got {signal!r}")
        if kind.name == RESERVED:
            raise ValueError(f"expected another name for {kind.__name__} than {RESERVED!r}, which SAT's own score has")
        found[kind.name] = kind
    return found


__all__ = [
    "SIGNALS",
    "Consistency",
    "ConsistencyBlend",
    "GradientSum",
    "LayerView",
    "LinkPrediction",
    "Momentum",
    "Signal",
    "WeightAndGradient",
    "signal_classes",
]
