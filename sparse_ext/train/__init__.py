"""Floor 4: running a method on a model, and saying what it did."""

from .flops import count_flops
from .report import LayerReport, Report
from .signals import SIGNALS, GradientSum, LinkPrediction, Signal
from .sparsifier import Sparsifier

__all__ = ["SIGNALS", "GradientSum", "LayerReport", "LinkPrediction", "Report", "Signal", "Sparsifier", "count_flops"]
