"""Floor 1: the operators. The only importer of `_C`; everything above goes through here."""

from . import csr, nm24, nm24_training, reference, regrow
from .autograd import LinearFunction, SampledFunction
from .checks import check_pattern
from .csr_pattern import CsrPattern
from .launch import BACKENDS
from .layouts import LAYOUTS, Csr, Layout, layout_named
from .library import OPS
from .nm24_pattern import Nm24Pattern
from .outer import observe_dense_grad
from .regrow import Candidates
from .types import Pattern

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
    "csr",
    "layout_named",
    "nm24",
    "nm24_training",
    "observe_dense_grad",
    "reference",
    "regrow",
]
