"""Floor 4: running a method on a model, and saying what it did."""

from .flops import Flops, LayerFlops, count_flops
from .report import LayerReport, Report
from .signals import SIGNALS, Consistency, ConsistencyBlend, GradientSum, LinkPrediction, Momentum, Signal, WeightAndGradient
from .sparsifier import Sparsifier

__all__ = [
    "SIGNALS",
    "Consistency",
    "ConsistencyBlend",
    "Flops",
    "GradientSum",
    "LayerFlops",
    "LayerReport",
    "LinkPrediction",
    "Momentum",
    "Report",
    "Signal",
    "Sparsifier",
    "WeightAndGradient",
    "count_flops",
]
