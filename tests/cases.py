"""What the tests run on: shapes, tolerances and every operator's arguments. The only place for rtol and atol.

Order of trust: a row that a human can check (by_hand.py), then the twin in ops/reference, then properties.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import convolutions
import torch

from sparse_ext.ops import LAYOUTS, OPS, Candidates, CsrPattern, MaskedPattern, operands_of, reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INDEX_DTYPES = (torch.int32, torch.uint16)

# Sums are kept in float32 (float64) in another order than the twin's; 16-bit results may then round to neighbouring values.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-4},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-3},
    torch.float16: {"rtol": 2**-10, "atol": 1e-3},
}
RESUMED = {"rtol": 1e-4, "atol": 1e-5}  # 30 steps of training on another machine, where every sum may round otherwise
STATISTICAL = {"rtol": 0.05, "atol": 0.0}  # a variance over >= 5000 weights is known to about 2 %


def name_of(value) -> str | None:
    """Test ids: dtypes by their short name."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


# ---- shapes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A weight [rows, cols], `tokens` activations; `spare` entries of capacity behind nnz; skew: row r in proportion to 1/r."""

    rows: int
    cols: int
    tokens: int
    density: float
    spare: int = 0
    skew: bool = False

    def __str__(self) -> str:
        text = f"{self.rows}x{self.cols}x{self.tokens}-{self.density:g}"
        return text + (f"+{self.spare}" if self.spare else "") + ("-skew" if self.skew else "")


# Small enough for the emulator, which takes about a microsecond for each CUDA thread.
SMALL = (
    Shape(1, 1, 1, 1.0),
    Shape(7, 5, 3, 0.5, spare=4),
    Shape(5, 9, 0, 0.5),  # no tokens
    Shape(1, 50, 4, 0.3),  # one row
    Shape(50, 1, 4, 0.3),  # one column, empty rows
    Shape(4, 0, 3, 0.0, spare=2),  # no columns
    Shape(6, 8, 5, 0.0),  # nnz = 0, capacity = 0
    Shape(6, 8, 5, 0.0, spare=3),  # nnz = 0, spare capacity
    Shape(9, 17, 33, 1.0),  # full
    Shape(33, 70, 65, 0.1, spare=7),
)
# Enough work for two threads, one token block more than a multiple.
LARGE = (
    Shape(100, 300, 131, 0.1),
    Shape(64, 64, 64, 0.5),
    Shape(40, 600, 70, 0.3, skew=True),
)
# The last 16-bit column, 32-bit columns and row ids.
BEYOND_16_BITS = (
    Shape(3, 65536, 5, 0.01),
    Shape(3, 65537, 5, 0.01, spare=1),
    Shape(65537, 3, 2, 0.01),
)
THREADED = (Shape(100, 300, 131, 0.1), Shape(7, 1201, 97, 0.3, spare=5), Shape(1001, 13, 301, 0.1, skew=True))


@dataclass
class Problem:
    """One shape's tensors on one device, random but the same each time."""

    shape: Shape
    mask: torch.Tensor
    pattern: CsrPattern
    operands: NamedTuple  # the pattern's, with column and row indices of the index dtype under test
    dense: torch.Tensor
    weight: torch.Tensor
    x: torch.Tensor
    dy: torch.Tensor
    bias: torch.Tensor
    score: torch.Tensor


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def problem(shape: Shape, dtype=torch.float32, device="cpu", index=torch.int32, seed=0) -> Problem:
    """Values have ties (multiples of 1/8), so that selections meet them. Indices are int32 where 16 bits do not hold them."""
    generator = torch.Generator().manual_seed(seed)

    def values(*size):
        return (torch.randn(size, generator=generator, dtype=torch.float64) * 8).round() / 8

    rows, cols, tokens = shape.rows, shape.cols, shape.tokens
    density = torch.full((rows, 1), shape.density)
    if shape.skew:
        density = (density * rows / torch.arange(1, rows + 1)[:, None]).clamp(max=1.0)
    mask = torch.rand(rows, cols, generator=generator) < density
    pattern = CsrPattern.from_mask(mask.to(device), int(mask.sum()) + shape.spare)
    dense = values(rows, cols)
    weight = torch.zeros(pattern.capacity, dtype=torch.float64)
    weight[: pattern.nnz] = dense[mask]
    return Problem(
        shape, mask.to(device), pattern, operands_with(pattern, index), dense.to(device, dtype), weight.to(device, dtype),
        values(tokens, cols).to(device, dtype), values(tokens, rows).to(device, dtype), values(rows).to(device, dtype),
        values(rows, cols).to(device, sum_dtype(dtype)),
    )  # fmt: skip


def operands_with(pattern: CsrPattern, index: torch.dtype):
    """The pattern's operands, with 16-bit column and row indices made those of the dtype `index`."""
    operands = operands_of(LAYOUTS["csr"], pattern)
    narrow = {name: tensor.to(index) for name, tensor in operands._asdict().items() if tensor.dtype == torch.uint16}
    return operands._replace(**narrow)


def pattern_of(layout, shape: Shape, device="cpu", seed=1):
    """A random pattern of the layout's: of the shape's density and spare capacity where these may vary."""
    kind = layout.pattern
    sizes = kind.sizes(shape.rows, shape.cols, 1 - shape.density if kind.VARIABLE else kind.SPARSITY, None)
    capacity = sizes.capacity + (shape.spare if kind.VARIABLE else 0)
    return kind.random(shape.rows, shape.cols, sizes.nnz, seed, device, capacity)


def has_layout(case, shape: Shape | None = None) -> bool:
    """Whether the case's layout has such a matrix, and kernels for the dtype on this kind of device."""
    layout, shape = LAYOUTS[case.layout], shape or case.shape
    on_tensor_cores = layout.stem == "nm24" and case.kind != "cpu"
    return not layout.pattern.obstacle(shape.rows, shape.cols) and not (on_tensor_cores and case.dtype.itemsize > 2)


def _regrow_arguments(p: Problem):
    nnz, free = p.pattern.nnz, p.mask.numel() - p.pattern.nnz
    third, spare = nnz // 3, min(free, p.shape.spare)
    counts = {(0, 0), (third, third), (nnz, nnz), (third, third + spare), (third, 0)}
    index = (p.weight, p.pattern.row_ptr, p.pattern.col_idx, p.shape.cols)
    return [(*index, score, 123456789012, *count) for score in (p.score, None) for count in sorted(counts)]


def _nm24_regrow_arguments(p: Problem):
    """Of transposable tiles, too, whose entries may lie in columns that do not exist."""
    calls = []
    for choice in ("largest", "transposable"):
        values, ids = (tensor.to(p.dense.device) for tensor in reference.nm24_prune(p.dense.cpu(), choice)[:2])
        most = 2 * p.shape.rows * (p.shape.cols // 4)  # without the last group
        calls += [(values, ids, p.shape.cols, score, 7, drop) for score in (p.score, None) for drop in (0, most // 3, most)]
    return calls


def _candidates(p: Problem, size: int):
    """Before the first tile."""
    return Candidates.empty(p.weight, p.pattern.capacity, size, p.score.dtype).tensors


def _candidates_arguments(p: Problem):
    """The first tile, of the upper rows; the second one, for the list that the first has left; a longer list than needed."""
    index, half, some = (p.pattern.row_ptr, p.pattern.col_idx), p.shape.rows // 2, p.mask.numel() // 3
    left = tuple(tensor.cpu() for tensor in _candidates(p, some))
    reference.regrow_candidates_(*left, *(tensor.cpu() for tensor in index), p.score[:half].cpu(), 0)
    left = tuple(tensor.to(p.score.device) for tensor in left)
    everything = (*_candidates(p, p.mask.numel() + 3), *index, p.score, 0)
    return [(*_candidates(p, some), *index, p.score[:half], 0), (*left, *index, p.score[half:], half), everything]


def _streamed_arguments(p: Problem):
    streamed = []
    for weight, row_ptr, col_idx, cols, score, _, drop, grow in _regrow_arguments(p):
        if score is not None:
            best = tuple(tensor.cpu() for tensor in _candidates(p, grow))
            reference.regrow_candidates_(*best, row_ptr.cpu(), col_idx.cpu(), score.cpu(), 0)
            streamed.append((weight, row_ptr, col_idx, cols, *(tensor.to(weight.device) for tensor in best), drop, grow))
    return streamed


# Every operator's arguments for a problem. OPS names the operators: one without a row here fails its tests by KeyError.
ARGUMENTS = {
    "csr_spmm": lambda p: [
        (p.weight, p.pattern.row_ptr, p.operands.col_idx, p.shape.cols, p.x, *rest)
        for rest in ((None,), (p.bias,), (p.bias, True))  # True: relu
    ],
    "csr_spmm_t": lambda p: [(p.weight, p.pattern.row_ptr, p.operands.col_idx, *p.operands[2:], p.dy)],
    "csr_sddmm": lambda p: [(p.pattern.row_ptr, p.operands.col_idx, p.shape.cols, p.dy, p.x)],
    **convolutions.ARGUMENTS,
    "densified_matmul": lambda p: ARGUMENTS["csr_spmm"](p),
    "densified_matmul_t": lambda p: [(p.weight, p.pattern.row_ptr, p.operands.col_idx, p.shape.cols, p.dy)],
    "densified_grad_weight": lambda p: ARGUMENTS["csr_sddmm"](p),
    "auto_spmm": lambda p: ARGUMENTS["csr_spmm"](p),
    "auto_spmm_t": lambda p: ARGUMENTS["csr_spmm_t"](p),
    "auto_sddmm": lambda p: ARGUMENTS["csr_sddmm"](p),
    "csr_pack": lambda p: [(p.dense, p.pattern.row_ptr, p.operands.col_idx)],
    "csr_unpack": lambda p: [(p.weight, p.pattern.row_ptr, p.operands.col_idx, p.shape.cols)],
    "csr_from_mask": lambda p: [(p.mask, p.pattern.capacity)],
    "csr_transpose": lambda p: [(p.pattern.row_ptr, p.pattern.col_idx, p.shape.cols)],
    "masked_select": lambda p: [(matrix, MaskedPattern.from_mask(p.mask).mask_bits) for matrix in (p.dense, p.dense.view(-1))],
    "masked_spmm": lambda p: [
        (p.dense.view(-1), MaskedPattern.from_mask(p.mask).mask_bits, p.shape.rows, p.x, *rest)
        for rest in ((None,), (p.bias,), (p.bias, True))
    ],
    "masked_spmm_t": lambda p: [(p.dense.view(-1), MaskedPattern.from_mask(p.mask).mask_bits, p.shape.cols, p.dy)],
    "masked_sddmm": lambda p: [(MaskedPattern.from_mask(p.mask).mask_bits, p.dy, p.x)],
    "nm24_prune": lambda p: [
        (matrix, *choice)
        for matrix in (p.dense, p.score)  # 16-bit values are made of float32, too
        for choice in (("largest", p.dense.dtype), ("soft", p.dense.dtype, 0.75), ("transposable", p.dense.dtype))
    ],
    "nm24_pack": lambda p: [
        (matrix, reference.nm24_prune(p.dense.cpu(), choice)[1].to(p.dense.device), choice == "transposable", p.dense.dtype)
        for matrix in (p.dense, p.score)
        for choice in ("largest", "transposable")
    ],
    "nm24_unpack": lambda p: [
        (*(tensor.to(p.dense.device) for tensor in reference.nm24_prune(p.dense.cpu(), "largest")), p.shape.cols)
    ],
    "nm24_gemm": lambda p: [
        (*(tensor.to(p.dense.device) for tensor in reference.nm24_prune(p.dense.cpu(), "largest")), p.x, *rest)
        for rest in ((None,), (p.bias,), (p.bias, True))
    ],
    "auto_gemm": lambda p: ARGUMENTS["nm24_gemm"](p),
    "auto_gemm_t": lambda p: [(p.dense, reference.nm24_prune(p.dense.cpu(), "transposable")[1].to(p.dense.device), p.dy)],
    "nm24_mvue": lambda p: [(matrix, torch.tensor([-123456789012, 5], device=matrix.device)) for matrix in (p.dy, p.x)],
    "nm24_regrow": _nm24_regrow_arguments,
    "regrow": _regrow_arguments,
    "regrow_candidates_": _candidates_arguments,
    "regrow_streamed": _streamed_arguments,
    # 0 is no layer's handle: see test_dense_grad.py for what a watch hears.
    "follow_": lambda p: [([p.pattern.row_ptr], [p.pattern.col_idx], 0)],
    "observe_dense_grad_": lambda p: [(torch.zeros(1, dtype=torch.int64, device=p.x.device), 0, p.dy, p.x)],
}
# Results that are sums, compared within TOLERANCE; every other operator's are compared bit by bit.
_DENSIFIED = ("densified_matmul", "densified_matmul_t", "densified_grad_weight")
MASKED = ("masked_spmm", "masked_spmm_t", "masked_sddmm")
CONV, _AUTO_CONV = (tuple(op for op in convolutions.ARGUMENTS if op.startswith(stem)) for stem in ("csr", "auto"))
_AUTO = ("auto_spmm", "auto_spmm_t", "auto_sddmm")
TORCH_SUMS = (*_DENSIFIED, *_AUTO, *_AUTO_CONV, "auto_gemm", "auto_gemm_t")  # which may be torch's own products
SUMS = ("csr_spmm", "csr_spmm_t", "csr_sddmm", "nm24_gemm", *CONV, *MASKED, *TORCH_SUMS)
TENSOR_CORES = ("nm24_gemm", "auto_gemm", "auto_gemm_t")  # operators that CUDA has for 16-bit types only
# Operators that read column or row indices, in either width; the others take int32 only, or no indices.
INDEXED = ("csr_spmm", "csr_spmm_t", "csr_sddmm", "csr_pack", "csr_unpack", *CONV, *_DENSIFIED, *_AUTO, *_AUTO_CONV)
# The instruction sets for which an operator has no code of its own: there it runs the portable one, which is tested anyway. An
# operator without a row is tested on every kind of device.
_HOPPER, _CPU = ("sm_90a",), ("v3", "v4", "v4_bf16")
SAME_CODE = {
    **dict.fromkeys(("csr_spmm", "csr_spmm_t", *MASKED), _HOPPER),
    **dict.fromkeys(CONV, (*_HOPPER, "v4_bf16")),
    **dict.fromkeys(("nm24_prune", "nm24_pack", "nm24_unpack", "nm24_mvue", "masked_select"), (*_HOPPER, "v4_bf16")),
    **dict.fromkeys(("csr_pack", "csr_unpack", "csr_from_mask", "csr_transpose"), _HOPPER + _CPU),
    **dict.fromkeys(("nm24_regrow", "regrow", "regrow_candidates_", "regrow_streamed"), _HOPPER + _CPU),
    **dict.fromkeys((*TORCH_SUMS, "observe_dense_grad_", "follow_"), _HOPPER + _CPU),
    **dict.fromkeys(_AUTO_CONV, ("sm_80", *_HOPPER, *_CPU)),
}
INDEXED_OPS = [(op, index) for op in OPS for index in (INDEX_DTYPES if op in INDEXED else INDEX_DTYPES[:1])]


_expected = OrderedDict()  # results of the latest calls of twins


def expected(op, arguments):
    """What the twin makes of the arguments. Kept: other kinds of devices ask for the same, and a twin is slow."""
    arguments = [a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments]
    key = (op, *map(_digest, arguments))
    if key not in _expected:
        _expected[key] = getattr(reference, op)(*arguments)
        if len(_expected) > 256:
            _expected.popitem(last=False)
    _expected.move_to_end(key)
    return _expected[key]


def _digest(argument):
    if not isinstance(argument, torch.Tensor):
        return argument
    data = argument.contiguous().reshape(-1).view(torch.uint8).numpy()
    return argument.dtype, argument.shape, hashlib.blake2b(data, digest_size=16).digest()


def assert_agrees(op, arguments, dtype):
    """Of an operator with one result: it is the twin's."""
    torch.testing.assert_close(OPS[op](*arguments).cpu(), expected(op, arguments), equal_nan=True, **TOLERANCE[dtype])


# Updates in a row: 1,000 on a CPU; the emulator shows the same in fewer.
UPDATES = {"cpu": 1000, "emulated": 40, "cuda": 1000}
