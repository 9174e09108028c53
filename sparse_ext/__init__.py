"""Neural networks that are sparse from the first step, with kernels that really skip the zeros."""

from . import functional, utils
from .config import __version__, cuda_available, show_config
from .methods import FST, METHODS, SAT, SET, SRSTE, SSTE, RigL, Static, Together, TopKAST, register_method
from .nn import (
    SparseConv1d,
    SparseConv2d,
    SparseLinear,
    densify_,
    layer_densities,
    param_groups,
    register_layer,
    sparsify_,
    summary,
)
from .ops import register_layout
from .train import Sparsifier, count_flops

__all__ = [
    "FST",
    "METHODS",
    "SAT",
    "SET",
    "SRSTE",
    "SSTE",
    "RigL",
    "SparseConv1d",
    "SparseConv2d",
    "SparseLinear",
    "Sparsifier",
    "Static",
    "Together",
    "TopKAST",
    "__version__",
    "count_flops",
    "cuda_available",
    "densify_",
    "functional",
    "layer_densities",
    "param_groups",
    "register_layer",
    "register_layout",
    "register_method",
    "show_config",
    "sparsify_",
    "summary",
    "utils",
]
