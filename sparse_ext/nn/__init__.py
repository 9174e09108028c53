"""Floor 2: modules, parameters, conversion."""

from .conv import SparseConv1d, SparseConv2d
from .convert import densify_, layer_densities, sparse_layers, sparsify_
from .layer import SparseLayer
from .linear import SparseLinear
from .param_groups import param_groups

__all__ = [
    "SparseConv1d",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "densify_",
    "layer_densities",
    "param_groups",
    "sparse_layers",
    "sparsify_",
]
