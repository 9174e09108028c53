"""Floor 4: running a method on a model, and saying what it did."""

from . import consistency  # noqa: F401  (adds its signals)
from .flops import count_flops
from .report import LayerReport, Report
from .signals import SIGNALS, GradientSum, Signal
from .sparsifier import Sparsifier

__all__ = ["SIGNALS", "GradientSum", "LayerReport", "Report", "Signal", "Sparsifier", "count_flops"]
