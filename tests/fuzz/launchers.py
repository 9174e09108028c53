"""Any operator with arguments that nearly fit: refused in a sentence, or the twin's result; never a read or a write elsewhere.

Arguments are those of a small problem, of which a few are changed. The checks of debug mode decide which indices get through:
they read every one, and what passes them goes to a kernel. Under ASan no access outside a tensor stays unnoticed.
"""

from __future__ import annotations

import torch
from cases import ARGUMENTS, DTYPES, INDEXED, SAME_CODE, SUMS, TOLERANCE, Shape, problem
from changes import FLOATS, NUMBERS, changed_tensor
from choices import Choices
from refused import refused

from sparse_ext.ops import BACKENDS, OPS, reference

SHAPES = (
    Shape(3, 4, 2, 0.5), Shape(7, 5, 3, 0.5, spare=4), Shape(1, 50, 4, 0.3), Shape(50, 1, 4, 0.3), Shape(5, 9, 0, 0.5),
    Shape(6, 8, 5, 0.0, spare=3), Shape(9, 17, 33, 1.0), Shape(33, 70, 17, 0.1, spare=7),
)  # fmt: skip
# New ones come last: files of the corpora name an operator by its place. Not those that call no launcher, or choose between
# others.
LAUNCHED = (
    "csr_spmm", "csr_spmm_t", "csr_sddmm", "csr_pack", "csr_unpack", "csr_from_mask", "csr_transpose",
    "densified_matmul", "densified_matmul_t", "densified_grad_weight", "regrow", "regrow_candidates_", "regrow_streamed",
    "nm24_prune", "nm24_pack", "nm24_unpack", "nm24_gemm", "nm24_mvue", "nm24_regrow",
    "masked_select", "masked_spmm", "masked_spmm_t", "masked_sddmm", "csr_conv2d", "csr_conv2d_t", "csr_conv2d_grad_weight",
)  # fmt: skip
SIZES = ("cols", "rows", "capacity")  # these decide how much memory a result takes
EXACT = {"rtol": 0, "atol": 0}


def op_of(choices: Choices) -> str:
    """The first decision."""
    return choices.of(LAUNCHED)


def check(choices: Choices, device: str | torch.device = "cpu") -> str:
    """What became of a call; AssertionError if it is wrong. Debug mode must be on: `checks.DEBUG`."""
    op, backend = op_of(choices), BACKENDS[torch.device(device).type]
    if backend.module.isa() in SAME_CODE.get(op, ()):
        return "the same code as another's"
    dtypes = backend.dtypes
    dtype = choices.of([dtype for dtype in DTYPES if dtype in dtypes])
    index = choices.of((torch.int32, torch.uint16)) if op in INDEXED else torch.int32
    arguments = list(choices.of(ARGUMENTS[op](problem(choices.of(SHAPES), dtype, device, index, seed=choices.below(256)))))
    names = [argument.name for argument in OPS[op].call._schema.arguments]
    for _ in range(choices.below(4)):
        place = choices.below(len(arguments))
        arguments[place] = changed(choices, names[place], arguments[place])
    copies = [a.cpu().clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    got: list[torch.Tensor] = []
    if refused(lambda: got.extend(outcome(OPS[op], arguments))):
        return "refused"
    tolerance = {**TOLERANCE[dtype], "atol": TOLERANCE[dtype]["atol"] * unit(copies)} if op in SUMS else EXACT
    for one, twin in zip(got, outcome(getattr(reference, op), copies), strict=True):
        torch.testing.assert_close(one, twin, equal_nan=True, msg=lambda text: f"{op}: {text}", **tolerance)
    return "agreed"


def unit(arguments):
    """1; or the largest number, if it is huge: of two that cancel each other, what is left is rounded as they are."""
    numbers = [a.abs().double().nan_to_num(0, 0) for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    largest = max((float(a.max()) for a in numbers if a.numel()), default=0.0)
    return largest if largest > 1e20 else 1.0


def outcome(function, arguments):
    """Results, and the arguments afterwards: operators in place show, and so would one that writes to its input."""
    result = function(*arguments)
    results = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
    return [tensor.cpu() for tensor in (*results, *arguments) if isinstance(tensor, torch.Tensor)]


def changed(choices: Choices, name: str, value):
    """Another value in place of an argument."""
    if isinstance(value, torch.Tensor):
        return changed_tensor(choices, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return choices.of(FLOATS)
    if isinstance(value, int):
        number = choices.of((choices.of(NUMBERS), value - 1, value + 1))
        return number if name not in SIZES else max(-(2**31), min(number, 65537))
    if isinstance(value, tuple):  # sizes: a larger padding would take much memory
        place = choices.below(len(value))
        return (*value[:place], value[place] + choices.of((1, -1, 3)), *value[place + 1 :])
    return choices.of((None, "", "largest", "transposable")) if value is None or isinstance(value, str) else value
