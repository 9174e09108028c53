"""Floor 4: running a method on a model, and saying what it did."""

from .flops import count_flops
from .links import LinkPrediction
from .report import LayerReport, Report
from .signals import SIGNALS, GradientSum, Signal
from .sparsifier import Sparsifier

SIGNALS[LinkPrediction.name] = LinkPrediction

__all__ = ["SIGNALS", "GradientSum", "LayerReport", "LinkPrediction", "Report", "Signal", "Sparsifier", "count_flops"]
