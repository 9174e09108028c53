"""Floor 2: modules, parameters, conversion."""

from .conv import SparseConv1d, SparseConv2d
from .convert import densify_, layer_densities, sparse_layers, sparsify_
from .layer import SparseLayer
from .linear import SparseLinear
from .others import SparseGraphLinear, SparseTransposedLinear
from .overview import summary
from .table import register_layer

for _kind in (SparseLinear, SparseConv1d, SparseConv2d, SparseTransposedLinear, SparseGraphLinear):
    register_layer(_kind.DENSE, _kind)

__all__ = [
    "SparseConv1d",
    "SparseConv2d",
    "SparseGraphLinear",
    "SparseLayer",
    "SparseLinear",
    "SparseTransposedLinear",
    "densify_",
    "layer_densities",
    "register_layer",
    "sparse_layers",
    "sparsify_",
    "summary",
]
