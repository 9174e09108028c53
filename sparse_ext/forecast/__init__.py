"""What training will cost, before it begins: `estimate`, for models of any size, of which nothing is allocated."""

from .estimate import estimate
from .result import Estimate

__all__ = ["Estimate", "estimate"]
