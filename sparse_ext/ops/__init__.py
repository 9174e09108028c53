"""Floor 1: the operators. The only importer of `_C`; everything above goes through here."""

from . import reference
from .autograd import LinearFunction, SampledFunction
from .boundary.checks import check_pattern
from .csr.pattern import CsrPattern
from .boundary.launch import BACKENDS
from .layout import LAYOUTS, Csr, Layout, layout_named
from .boundary.library import OPS
from .nm24.pattern import Nm24Pattern
from .dense_grad import observe_dense_grad
from .regrow.kernels import Candidates
from .pattern import Pattern

__all__ = [
    "BACKENDS",
    "LAYOUTS",
    "OPS",
    "Candidates",
    "Csr",
    "CsrPattern",
    "Layout",
    "LinearFunction",
    "Nm24Pattern",
    "Pattern",
    "SampledFunction",
    "check_pattern",
    
    "layout_named",
    "nm24",
    "nm24_training",
    "observe_dense_grad",
    "reference",
    "regrow",
]
