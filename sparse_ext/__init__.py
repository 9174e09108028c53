"""Neural networks that are sparse from the first step, with kernels that really skip the zeros."""

from . import functional
from .nn import SparseLinear, densify_, layer_densities, sparsify_

__all__ = ["SparseLinear", "densify_", "functional", "layer_densities", "sparsify_"]
