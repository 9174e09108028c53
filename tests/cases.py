"""What the tests run on: shapes, tolerances and hand-computed answers. The only place for rtol and atol.

Order of trust: a row that a human can check (HAND, REGROW), then the twin in reference.py, then properties.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparse_ext.ops import OPS, Candidates, Pattern, reference

inf, nan = float("inf"), float("nan")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INDEX_DTYPES = (torch.int32, torch.uint16)

# Sums are kept in float32 (float64) in another order than the twin's; 16-bit results may then round to neighbouring values.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-4},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-3},
    torch.float16: {"rtol": 2**-10, "atol": 1e-3},
}
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
    Shape(6, 8, 5, 0.0),  # nnz = 0, capacity = 0
    Shape(6, 8, 5, 0.0, spare=3),  # nnz = 0 with room
    Shape(9, 17, 33, 1.0),  # full
    Shape(33, 70, 65, 0.1, spare=7),
)
# Enough work for two threads, one token block more than a multiple, 32-bit columns and row ids, the last 16-bit column.
LARGE = (
    Shape(100, 300, 131, 0.1),
    Shape(64, 64, 64, 0.5),
    Shape(40, 600, 70, 0.3, skew=True),
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
    pattern: Pattern
    columns: torch.Tensor  # pattern.col_idx in the wanted index dtype, and
    row_ids: torch.Tensor  # pattern.row_ids likewise
    dense: torch.Tensor
    weight: torch.Tensor
    x: torch.Tensor
    dy: torch.Tensor
    bias: torch.Tensor
    score: torch.Tensor


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def problem(shape: Shape, dtype=torch.float32, device="cpu", index=torch.int32, seed=0) -> Problem:
    """Values have ties (multiples of 1/8), so that selections meet them; index uint16 falls back where ids do not fit."""
    draw = torch.Generator().manual_seed(seed)

    def values(*size):
        return (torch.randn(size, generator=draw, dtype=torch.float64) * 8).round() / 8

    rows, cols, tokens = shape.rows, shape.cols, shape.tokens
    density = torch.full((rows, 1), shape.density)
    if shape.skew:
        density = (density * rows / torch.arange(1, rows + 1)[:, None]).clamp(max=1.0)
    mask = torch.rand(rows, cols, generator=draw) < density
    pattern = Pattern.from_mask(mask, int(mask.sum()) + shape.spare)
    dense = values(rows, cols)
    weight = torch.zeros(pattern.capacity, dtype=torch.float64)
    weight[: pattern.nnz] = dense[mask]

    def ids(tensor, largest):
        return tensor.to(index if largest <= 1 << 16 else torch.int32).to(device)

    return Problem(
        shape, mask.to(device), Pattern.from_mask(mask.to(device), pattern.capacity),
        ids(pattern.col_idx, cols), ids(pattern.row_ids, rows),
        dense.to(device, dtype), weight.to(device, dtype),
        values(tokens, cols).to(device, dtype), values(tokens, rows).to(device, dtype), values(rows).to(device, dtype),
        values(rows, cols).to(device, sum_dtype(dtype)),
    )  # fmt: skip


def _regrow_arguments(p: Problem):
    nnz, free = p.pattern.nnz, p.mask.numel() - p.pattern.nnz
    third, spare = nnz // 3, min(free, p.shape.spare)
    counts = {(0, 0), (third, third), (nnz, nnz), (third, third + spare), (third, 0)}
    index = (p.weight, p.pattern.row_ptr, p.pattern.col_idx, p.shape.cols)
    return [(*index, score, 123456789012, *count) for score in (p.score, None) for count in sorted(counts)]


def _candidates(p: Problem, wanted: int):
    """Before the first tile."""
    return Candidates.none_yet(p.weight, p.pattern.capacity, wanted, p.score.dtype).tensors


def _candidates_arguments(p: Problem):
    """The first tile, of the upper rows; the second one, for the list that the first has left; more room than needed."""
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


def _passes(p: Problem):
    return torch.zeros(1, dtype=torch.int64, device=p.score.device)


# Every operator's arguments for a problem. OPS names the operators: one without a row here fails its tests by KeyError.
ARGUMENTS = {
    "csr_spmm": lambda p: [(p.weight, p.pattern.row_ptr, p.columns, p.shape.cols, p.x, bias) for bias in (None, p.bias)],
    "csr_spmm_t": lambda p: [(p.weight, p.pattern.col_ptr, p.row_ids, p.pattern.slot, p.shape.rows, p.dy)],
    "csr_sddmm": lambda p: [(p.pattern.row_ptr, p.columns, p.shape.cols, p.dy, p.x)],
    "densified_matmul": lambda p: [
        (p.weight, p.pattern.row_ptr, p.columns, p.shape.cols, p.x, bias) for bias in (None, p.bias)
    ],
    "densified_matmul_t": lambda p: [(p.weight, p.pattern.row_ptr, p.columns, p.shape.cols, p.dy)],
    "densified_grad_weight": lambda p: ARGUMENTS["csr_sddmm"](p),
    "csr_pack": lambda p: [(p.dense, p.pattern.row_ptr, p.columns)],
    "csr_unpack": lambda p: [(p.weight, p.pattern.row_ptr, p.columns, p.shape.cols)],
    "csr_from_mask": lambda p: [(p.mask, p.pattern.capacity)],
    "csr_transpose": lambda p: [(p.pattern.row_ptr, p.pattern.col_idx, p.shape.cols)],
    "regrow": _regrow_arguments,
    "regrow_candidates_": _candidates_arguments,
    "regrow_streamed": _streamed_arguments,
    "add_outer_": lambda p: [(p.score.clone(), _passes(p), p.dy, p.x)],
    "stream_outer_": lambda p: [
        (*_candidates(p, p.mask.numel() // 3), _passes(p), p.pattern.row_ptr, p.pattern.col_idx, p.dy, p.x)
    ],
}
# Results that are sums, compared within TOLERANCE; every other operator's are compared bit by bit.
TORCH_SUMS = ("densified_matmul", "densified_matmul_t", "densified_grad_weight", "add_outer_", "stream_outer_")
SUMS = ("csr_spmm", "csr_spmm_t", "csr_sddmm", *TORCH_SUMS)
# Operators that read column or row ids, in either width; the others take int32 only, or no ids.
INDEXED = ("csr_spmm", "csr_spmm_t", "csr_sddmm", "csr_pack", "csr_unpack", *TORCH_SUMS[:3])
# Operators whose code on the CPU is the same for every instruction set.
ONE_ISA = tuple(op for op in OPS if op not in ("csr_spmm", "csr_spmm_t", "csr_sddmm"))
INDEXED_OPS = [(op, index) for op in OPS for index in (INDEX_DTYPES if op in INDEXED else INDEX_DTYPES[:1])]


def assert_agrees(op, arguments, dtype):
    """Of an operator with one result: it is the twin's."""
    want = getattr(reference, op)(*(a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments))
    torch.testing.assert_close(OPS[op](*arguments).cpu(), want, equal_nan=True, **TOLERANCE[dtype])


# ---- by hand: one small matrix through every operator ----------------------------------------------------------------
#
#        1 0 2                                   10        entries: (0,0) (0,2) (2,1), and one spare
#   W =  0 0 0      x = dy = 1 2 3      bias  =  20
#        0 3 0               4 5 6               30

ROW_PTR, COL_IDX, WEIGHT = [0, 2, 2, 3], [0, 2, 1, 0], [1.0, 2.0, 3.0, 0.0]
COL_PTR, ROW_IDX, SLOT = [0, 1, 2, 3], [0, 2, 0, 0], [0, 2, 1, 0]
W = [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
X = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
BIAS = [10.0, 20.0, 30.0]
Y = [[7.0, 0.0, 6.0], [16.0, 0.0, 15.0]]
Y_BIAS = [[17.0, 20.0, 36.0], [26.0, 20.0, 45.0]]
DX = [[1.0, 9.0, 2.0], [4.0, 18.0, 8.0]]
DW = [17.0, 27.0, 36.0, 0.0]  # 1*1 + 4*4, 1*3 + 4*6, 3*2 + 6*5
OUTER = [[17.0, 22.0, 27.0], [22.0, 29.0, 36.0], [27.0, 36.0, 45.0]]

# {op: [(arguments, results)]}; lists of floats take the dtype under test, lists of ints are int32, an in-place
# operator's result is its first argument.
HAND = {
    "csr_spmm": [((WEIGHT, ROW_PTR, COL_IDX, 3, X, None), (Y,)), ((WEIGHT, ROW_PTR, COL_IDX, 3, X, BIAS), (Y_BIAS,))],
    "csr_spmm_t": [((WEIGHT, COL_PTR, ROW_IDX, SLOT, 3, X), (DX,))],
    "csr_sddmm": [((ROW_PTR, COL_IDX, 3, X, X), (DW,))],
    "densified_matmul": [((WEIGHT, ROW_PTR, COL_IDX, 3, X, None), (Y,)), ((WEIGHT, ROW_PTR, COL_IDX, 3, X, BIAS), (Y_BIAS,))],
    "densified_matmul_t": [((WEIGHT, ROW_PTR, COL_IDX, 3, X), (DX,))],
    "densified_grad_weight": [((ROW_PTR, COL_IDX, 3, X, X), (DW,))],
    "csr_pack": [((W, ROW_PTR, COL_IDX), (WEIGHT,))],
    "csr_unpack": [((WEIGHT, ROW_PTR, COL_IDX, 3), (W,))],
    "csr_from_mask": [(([[True, False, True], [False] * 3, [False, True, False]], 4), (ROW_PTR, COL_IDX))],
    "csr_transpose": [((ROW_PTR, COL_IDX, 3), (COL_PTR, ROW_IDX, SLOT))],
    "add_outer_": [(([[1.0] * 3] * 3, [0], X, X), ([[v + 1 for v in row] for row in OUTER],))],
    "stream_outer_": [],  # test_regrow.py
    "regrow_candidates_": [],  # REGROW, below, as all of the rest
    "regrow_streamed": [],
    "regrow": [],
}


@dataclass(frozen=True)
class Regrow:
    """`weight`: rows of numbers; `after`: rows of old entries, -1 where new; both None where there is no entry."""

    why: str
    weight: list
    score: list
    drop: int
    grow: int
    after: list
    spare: int = 0

    def __str__(self) -> str:
        return self.why.replace(" ", "-")


_ = None
REGROW = (
    # Kept: 0.5 and 0.3. Candidates: everything else; the best are both |4|, and (0, 2) had been entry 1.
    Regrow("the example",
           weight=[[0.5, _, -0.1, _], [_, 0.3, _, 0.1]],
           score=[[9, 1, 4, 0], [2, 9, -4, 3]], drop=2, grow=2,
           after=[[0, _, 1, _], [_, 2, -1, _]]),
    Regrow("dropping equals keeps the lower index",
           weight=[[1.0, -1.0, _], [1.0, _, -1.0]],
           score=[[0, 0, 5], [0, 0, 0]], drop=1, grow=1,
           after=[[0, 1, -1], [2, _, _]]),
    Regrow("growing equals takes the lower index",
           weight=[[_, 2.0, _], [_, _, 1.0]],
           score=[[0, 0, 0], [0, 0, 0]], drop=1, grow=1,
           after=[[-1, 0, _], [_, _, _]]),
    Regrow("a dropped position may win its own tie",
           weight=[[1.0, 2.0, _], [3.0, _, _]],
           score=[[7, 7, 7], [7, 7, 7]], drop=1, grow=1,
           after=[[0, 1, _], [2, _, _]]),
    Regrow("a zero weight is an entry", weight=[[0.0, 1.0], [_, _]], score=[[0, 0], [0, 3]], drop=0, grow=1, spare=1,
           after=[[0, 1], [_, -1]]),
    Regrow("more dropped than grown", weight=[[1.0, 2.0], [3.0, _]], score=[[0, 0], [0, 5]], drop=2, grow=1,
           after=[[_, _], [2, -1]]),
    Regrow("nothing to do", weight=[[1.0, _], [_, 2.0]], score=[[0, 9], [9, 0]], drop=0, grow=0,
           after=[[0, _], [_, 1]]),
    Regrow("NaN scores are the largest, infinite ones next", weight=[[1.0, _, _, _]], score=[[0, 5, inf, nan]],
           drop=1, grow=1, after=[[_, _, _, -1]]),
    Regrow("NaN weights are kept", weight=[[1.0, nan, -inf, 2.0]], score=[[0, 0, 0, 0]], drop=2, grow=0,
           after=[[_, 1, 2, _]]),
    Regrow("minus zero equals zero", weight=[[0.0, -0.0, 0.0]], score=[[-0.0, 0.0, -0.0]], drop=2, grow=1,
           after=[[0, 1, _]]),
)  # fmt: skip
del _

# Updates in a row: 1,000 on a CPU; the emulator shows the same in fewer.
UPDATES = {"cpu": 1000, "emulated": 40, "cuda": 1000}


# Philox4x32-10, Random123 1.14, examples/kat_vectors: (counter, key, result).
PHILOX = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
)  # fmt: skip
