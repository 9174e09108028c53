"""What training costs: planned, executed, and counted of any function."""

from .count import count_flops
from .table import Flops, LayerFlops

__all__ = ["Flops", "LayerFlops", "count_flops"]
