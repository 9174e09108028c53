"""Floor 4: running a method on a model, and saying what it did."""

from .flops import count_flops
from .report import LayerReport, Report
from .sparsifier import Sparsifier

__all__ = ["LayerReport", "Report", "Sparsifier", "count_flops"]
