"""Floor 2: modules, parameters, conversion."""

from .convert import densify_, layer_densities, sparse_layers, sparsify_
from .growth import Scores
from .layer import SparseLayer
from .linear import SparseLinear

__all__ = ["Scores", "SparseLayer", "SparseLinear", "densify_", "layer_densities", "sparse_layers", "sparsify_"]
