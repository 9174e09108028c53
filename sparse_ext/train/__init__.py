"""Floor 4: running a method on a model, and saying what it did."""

from . import consistency  # noqa: F401  (adds its signals)
from .flops import count_flops
from .importance import WeightAndGradient
from .momentum import Momentum
from .report import LayerReport, Report
from .signals import SIGNALS, GradientSum, LinkPrediction, Signal
from .sparsifier import Sparsifier

__all__ = [
    "SIGNALS",
    "GradientSum",
    "LayerReport",
    "LinkPrediction",
    "Momentum",
    "Report",
    "Signal",
    "Sparsifier",
    "WeightAndGradient",
    "count_flops",
]
