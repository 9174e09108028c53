"""Floor 1: the operators. The only importer of `_C`; everything above goes through here."""

from . import csr, reference, regrow
from .autograd import LinearFunction, SampledFunction, accumulate_dense_grad
from .checks import check_pattern
from .launch import BACKENDS
from .layouts import LAYOUTS, Csr, Layout, layout_named
from .library import OPS
from .types import Pattern

__all__ = [
    "BACKENDS",
    "LAYOUTS",
    "OPS",
    "Csr",
    "Layout",
    "LinearFunction",
    "Pattern",
    "SampledFunction",
    "accumulate_dense_grad",
    "check_pattern",
    "csr",
    "layout_named",
    "reference",
    "regrow",
]
