"""Floor 1: the operators, in a room for each kernel family. The only importer of `_C`; everything above goes through here."""

from . import reference
from .auto import Choice
from .autograd import multiply
from .boundary.launch import BACKENDS, FLOATING
from .boundary.library import OPS
from .csr.layout import Auto, Csr, sampled
from .csr.links import link_scores
from .csr.part import slots_part
from .csr.pattern import CsrPattern
from .dense.layout import Dense
from .dense_grad import GradientTotal, Watch, new_handle
from .follow import follow_
from .lasting import lasting
from .layout import LAYOUTS, Layout, keep_operands, kernels_of, layout_named, operands_of, prepared, register_layout
from .masked.layout import Masked
from .masked.pattern import MaskedPattern
from .nm24.layout import Nm24
from .nm24.pattern import Nm24Pattern
from .part import Part, rows_part
from .pattern import Pattern, Sizes, slot_map
from .product import Conv1d, Conv2d, Kernels, Linear, Product
from .regrow.candidates import Candidates, CandidateSink
from .regrow.first import random_score, with_first
from .regrow.sampler import drawn
from .rule import Rule

for _layout in (Csr, Auto, Masked, Nm24, Dense):
    register_layout(_layout)

__all__ = [
    "BACKENDS",
    "FLOATING",
    "LAYOUTS",
    "OPS",
    "CandidateSink",
    "Candidates",
    "Choice",
    "Conv1d",
    "Conv2d",
    "CsrPattern",
    "GradientTotal",
    "Kernels",
    "Layout",
    "Linear",
    "MaskedPattern",
    "Nm24Pattern",
    "Part",
    "Pattern",
    "Product",
    "Rule",
    "Sizes",
    "Watch",
    "drawn",
    "follow_",
    "keep_operands",
    "kernels_of",
    "lasting",
    "layout_named",
    "link_scores",
    "multiply",
    "new_handle",
    "operands_of",
    "prepared",
    "random_score",
    "reference",
    "register_layout",
    "rows_part",
    "sampled",
    "slot_map",
    "slots_part",
    "with_first",
]
