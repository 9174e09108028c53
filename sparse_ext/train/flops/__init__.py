"""What training costs: planned, executed, and counted of any function."""

from .count import count_flops

__all__ = ["count_flops"]
