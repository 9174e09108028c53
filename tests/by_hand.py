"""Hand-computed answers: one small matrix through every operator, regrowth case by case, known random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

inf, nan = float("inf"), float("nan")

# ---- one small matrix through every operator -----------------------------------------------------------------------
#
#        1 0 2                                   10        entries: (0,0) (0,2) (2,1), and one spare
#   W =  0 0 0      x = dy = 1 2 3      bias  =  20
#        0 3 0               4 5 6               30


class Ints(tuple):
    """A list of ints that is no tensor."""


ROW_PTR, COL_IDX, WEIGHT = [0, 2, 2, 3], [0, 2, 1, 0], [1.0, 2.0, 3.0, 0.0]
COL_PTR, ROW_IDX, SLOT = [0, 1, 2, 3], [0, 2, 0, 0], [0, 2, 1, 0]
W = [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
X = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
BIAS = [10.0, 20.0, 30.0]
Y = [[7.0, 0.0, 6.0], [16.0, 0.0, 15.0]]
Y_BIAS = [[17.0, 20.0, 36.0], [26.0, 20.0, 45.0]]
MINUS_BIAS, Y_RELU = [-10.0, -20.0, -10.0], [[0.0, 0.0, 0.0], [6.0, 0.0, 5.0]]
DX = [[1.0, 9.0, 2.0], [4.0, 18.0, 8.0]]
DW = [17.0, 27.0, 36.0, 0.0]  # 1*1 + 4*4, 1*3 + 4*6, 3*2 + 6*5
MASK_BITS = b"\x85\x00"  # positions 0, 2 and 7 of nine
FULL = [1.0, 8.0, 2.0, 8.0, 8.0, 8.0, 8.0, 3.0, 8.0]  # W, and 8 outside of the mask
DENSE_GRAD = [[17.0, 22.0, 27.0], [22.0, 29.0, 36.0], [27.0, 36.0, 45.0]]

# The same W as three kernels of 1 x 3 over one row of pixels, with a zero at either end.
WINDOW = (Ints((1, 3)), Ints((1, 1)), Ints((0, 1)), Ints((1, 1)), 1)
C_X = [[[[1.0, 2.0, 3.0, 4.0]]]]
C_Y = [[[[4.0, 7.0, 10.0, 3.0]], [[0.0, 0.0, 0.0, 0.0]], [[3.0, 6.0, 9.0, 12.0]]]]  # 1 * left + 2 * right; none; 3 * itself
C_BIAS, C_Y_RELU = [-5.0, -1.0, 0.0], [[[[0.0, 2.0, 5.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[3.0, 6.0, 9.0, 12.0]]]]
C_DY = [[[[1.0, 0.0, 0.0, 2.0]], [[5.0, 5.0, 5.0, 5.0]], [[0.0, 1.0, 0.0, 0.0]]]]
C_DX = [[[[0.0, 5.0, 2.0, 0.0]]]]  # 2*1 + 3*1, 1*2
C_DW = [6.0, 2.0, 2.0, 0.0]  # 2*3, 1*2, 1*2
# Left of the first pixel and right of the last one there is nothing, and no product with Inf.
C_WEIGHT_INF, C_BIAS_INF = [inf, -inf, 3.0, 0.0], [0.0, inf, -inf]
C_Y_INF = [[[[0.0, nan, nan, inf]], [[inf, inf, inf, inf]], [[0.0, 0.0, 0.0, 0.0]]]]
C_WEIGHT_RIGHT, C_DX_INF = [1.0, inf, 3.0, 0.0], [[[[0.0, inf, nan, nan]]]]  # 1*0 + 3*0, inf*1, inf*0, inf*0
C_DY_INF = [[[[inf, 0.0, 0.0, -inf]], [[nan, nan, nan, nan]], [[0.0, 1.0, 0.0, 0.0]]]]
C_DW_INF = [-inf, inf, 2.0, 0.0]  # -inf*3, inf*2

# 2:4, two rows of five: the last group of each has one column, and two positions all the same.
N = [[1.0, 3.0, 2.0, 0.0, 5.0], [-4.0, 0.0, 0.0, 1.0, -6.0]]
N_VALUES, N_IDS = [[3.0, 2.0, 5.0, 0.0], [-4.0, 1.0, -6.0, 0.0]], [b"\x49", b"\x4c"]  # (1, 2) (0, 1) and (0, 3) (0, 1)
N_SOFT = [[4.0, 2.0, 10.0, 0.0], [-8.0, 2.0, -12.0, 0.0]]  # 1 less in the first group, then twice
N_DENSE = [[0.0, 3.0, 2.0, 0.0, 5.0], [-4.0, 0.0, 0.0, 1.0, -6.0]]
N_X, N_BIAS = [[1.0, 2.0, 3.0, 4.0, 5.0], [inf, 1.0, 1.0, 1.0, -1.0]], [-100.0, 10.0]
N_Y = [[37.0, -30.0], [0.0, -inf]]  # 3*2 + 2*3 + 5*5, -4*1 + 1*4 - 6*5; row 0 does not have column 0
N_Y_RELU = [[0.0, 0.0], [0.0, 0.0]]
# A tile whose largest are two of each row and column.
TILE = [[9.0, 8.0, 0.0, 0.0], [7.0, 6.0, 0.0, 0.0], [0.0, 0.0, 5.0, 4.0], [0.0, 0.0, 3.0, 2.0]]
TILE_VALUES, TILE_IDS = [[9.0, 8.0], [7.0, 6.0], [5.0, 4.0], [3.0, 2.0]], [b"\x44", b"\x44", b"\x4e", b"\x4e"]
TILE_VALUES_T = [[9.0, 7.0], [8.0, 6.0], [5.0, 3.0], [4.0, 2.0]]
# Eight tokens of two rows. Key and count 0 give the first known answer of PHILOX: 0.399 and 0.881, then 0.736 and 0.606. In the
# first row these fall into parts 1 of (1, 1, 1, 1) and 3 of (1, 0, 1, 1), then into 3 of (2, 0, 2, 2) and 2 of (2, 0, 2, 0). Of
# four equal ones p = 1/2, of three 2/3. In the other row there is nothing to choose.
M_DY = [[1.0, 0.0], [1.0, -7.0], [1.0, 0.0], [1.0, 5.0], [2.0, 0.0], [0.0, 0.0], [-2.0, 0.0], [2.0, 3.0]]
M_VALUES_T, M_IDS_T = [[2.0, 2.0, -3.0, 3.0], [-7.0, 5.0, 0.0, 3.0]], [b"\xed", b"\xcd"]  # (1, 3) (2, 3) and (1, 3) (0, 3)

# {op: [(arguments, results)]}; lists of floats take the dtype under test, lists of ints are int32, tuples of them int64,
# bytes and lists of them uint8; an in-place operator's result is its first argument.
HAND = {
    "csr_spmm": [
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, None), (Y,)),
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, BIAS), (Y_BIAS,)),
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, MINUS_BIAS, True), (Y_RELU,)),
    ],
    "csr_spmm_t": [((WEIGHT, ROW_PTR, COL_IDX, COL_PTR, ROW_IDX, SLOT, X), (DX,))],
    "csr_sddmm": [((ROW_PTR, COL_IDX, 3, X, X), (DW,))],
    "csr_conv2d": [
        ((WEIGHT, ROW_PTR, COL_IDX, 3, C_X, None, *WINDOW), (C_Y,)),
        ((WEIGHT, ROW_PTR, COL_IDX, 3, C_X, C_BIAS, *WINDOW, True), (C_Y_RELU,)),
        ((C_WEIGHT_INF, ROW_PTR, COL_IDX, 3, C_X, C_BIAS_INF, *WINDOW, True), (C_Y_INF,)),
    ],
    "csr_conv2d_t": [
        ((WEIGHT, ROW_PTR, COL_IDX, COL_PTR, ROW_IDX, SLOT, C_DY, Ints((1, 4)), *WINDOW), (C_DX,)),
        ((C_WEIGHT_RIGHT, ROW_PTR, COL_IDX, COL_PTR, ROW_IDX, SLOT, C_DY, Ints((1, 4)), *WINDOW), (C_DX_INF,)),
    ],
    "csr_conv2d_grad_weight": [
        ((ROW_PTR, COL_IDX, 3, C_DY, C_X, *WINDOW), (C_DW,)),
        ((ROW_PTR, COL_IDX, 3, C_DY_INF, C_X, *WINDOW), (C_DW_INF,)),
    ],
    "densified_matmul": [
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, None), (Y,)),
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, BIAS), (Y_BIAS,)),
        ((WEIGHT, ROW_PTR, COL_IDX, 3, X, MINUS_BIAS, True), (Y_RELU,)),
    ],
    "densified_matmul_t": [((WEIGHT, ROW_PTR, COL_IDX, 3, X), (DX,))],
    "densified_grad_weight": [((ROW_PTR, COL_IDX, 3, X, X), (DW,))],
    "auto_conv2d": [((WEIGHT, ROW_PTR, COL_IDX, 3, C_X, C_BIAS, *WINDOW, True), (C_Y_RELU,))],
    "auto_conv2d_t": [((WEIGHT, ROW_PTR, COL_IDX, COL_PTR, ROW_IDX, SLOT, C_DY, Ints((1, 4)), *WINDOW), (C_DX,))],
    "auto_conv2d_grad_weight": [((ROW_PTR, COL_IDX, 3, C_DY, C_X, *WINDOW), (C_DW,))],
    "auto_spmm": [((WEIGHT, ROW_PTR, COL_IDX, 3, X, MINUS_BIAS, True), (Y_RELU,))],
    "auto_spmm_t": [((WEIGHT, ROW_PTR, COL_IDX, COL_PTR, ROW_IDX, SLOT, X), (DX,))],
    "auto_sddmm": [((ROW_PTR, COL_IDX, 3, X, X), (DW,))],
    "csr_pack": [((W, ROW_PTR, COL_IDX), (WEIGHT,))],
    "csr_unpack": [((WEIGHT, ROW_PTR, COL_IDX, 3), (W,))],
    "csr_from_mask": [(([[True, False, True], [False] * 3, [False, True, False]], 4), (ROW_PTR, COL_IDX))],
    "csr_transpose": [((ROW_PTR, COL_IDX, 3), (COL_PTR, ROW_IDX, SLOT))],
    "masked_select": [((DENSE_GRAD, MASK_BITS), ([[17.0, 0.0, 27.0], [0.0] * 3, [0.0, 36.0, 0.0]],))],
    "masked_spmm": [
        ((FULL, MASK_BITS, 3, X, None), (Y,)),
        ((FULL, MASK_BITS, 3, X, MINUS_BIAS, True), (Y_RELU,)),
    ],
    "masked_spmm_t": [((FULL, MASK_BITS, 3, X), (DX,))],
    "masked_sddmm": [((MASK_BITS, X, X), ([17.0, 0.0, 27.0, 0.0, 0.0, 0.0, 0.0, 36.0, 0.0],))],
    "nm24_prune": [
        ((N, "largest"), (N_VALUES, N_IDS)),
        ((N, "soft", None, 2.0), (N_SOFT, N_IDS)),
        ((TILE, "transposable"), (TILE_VALUES, TILE_IDS, TILE_VALUES_T, TILE_IDS)),
    ],
    "nm24_pack": [((N, N_IDS), (N_VALUES,)), ((TILE, TILE_IDS, True), (TILE_VALUES, TILE_VALUES_T, TILE_IDS))],
    "nm24_unpack": [((N_VALUES, N_IDS, 5), (N_DENSE,))],
    "nm24_gemm": [
        ((N_VALUES, N_IDS, N_X, None), (N_Y,)),
        ((N_VALUES, N_IDS, N_X, N_BIAS, True), (N_Y_RELU,)),
    ],
    "auto_gemm": [((N_VALUES, N_IDS, N_X[:1], None), (N_Y[:1],))],
    "auto_gemm_t": [((TILE, TILE_IDS, [[1.0, 2.0, 3.0, 4.0]]), ([[23.0, 20.0, 27.0, 20.0]],))],  # 9 + 2 * 7, 8 + 2 * 6, ...
    "nm24_mvue": [((M_DY, (0, 0)), (M_VALUES_T, M_IDS_T))],
    "follow_": [(({"row_ptr": (0, 1)}, {"row_ptr": (0, 2)}, 0), ())],  # of no layer
    "observe_dense_grad_": [(((4,), 0, X, X), ((5,),))],
    "regrow_candidates_": [],  # REGROW, below, as all of the rest
    "regrow_streamed": [],
    "regrow": [],
    # NM24_REGROW, below; and at random, by the first numbers of PHILOX: 0.399, 0.881, 0.736, 0.606.
    "nm24_regrow": [
        (([[3.0, 2.0]], [b"\x4c"], 4, None, 0, 0), ([b"\x4c"], [0, 1])),
        (([[3.0, 2.0]], [b"\x4c"], 4, None, 0, 1), ([b"\x44"], [0, -1])),  # 3 is dropped, 1 grows beside 0
        (([[3.0, 2.0]], [b"\x4c"], 4, None, 0, 2), ([b"\x49"], [-1, -1])),
    ],
}


def tensors(arguments, device, dtype):
    """A row of HAND for operators."""

    def made(value):
        if isinstance(value, dict):  # a list of tensors
            return [made(one) for one in value.values()]
        if isinstance(value, Ints):
            return value
        if isinstance(value, tuple):
            return torch.tensor(value, device=device)
        if isinstance(value, bytes):
            return torch.tensor(list(value), dtype=torch.uint8, device=device)
        if not isinstance(value, list):
            return value
        if isinstance(value[0], bytes):
            return torch.tensor([list(row) for row in value], dtype=torch.uint8, device=device)
        tensor = torch.tensor(value)
        return tensor.to(device, {torch.float32: dtype, torch.int64: torch.int32}.get(tensor.dtype, tensor.dtype))

    return [made(value) for value in arguments]


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


@dataclass(frozen=True)
class Nm24Regrow:
    """As Regrow, in groups of four columns with two entries each; a last group of one column has a second one in none."""

    why: str
    weight: list
    score: list
    drop: int
    after: list

    def __str__(self) -> str:
        return self.why.replace(" ", "-")


NM24_REGROW = (
    # Dropped: both 0.1. The first comes back by its score of 4; the other's group prefers 4 to 3.
    Nm24Regrow("the example",
               weight=[[0.5, _, -0.1, _], [_, 0.3, _, 0.1]],
               score=[[9, 1, 4, 0], [2, 9, -4, 3]], drop=2,
               after=[[0, _, 1, _], [_, 2, -1, _]]),
    Nm24Regrow("dropping equals keeps the lower index",
               weight=[[1.0, -1.0, _, _], [_, 1.0, _, -1.0]],
               score=[[0, 0, 5, 0], [0, 0, 5, 0]], drop=1,
               after=[[0, 1, _, _], [_, 2, -1, _]]),
    Nm24Regrow("growing equals takes the lower position", weight=[[_, 2.0, _, 1.0]], score=[[0, 0, 0, 0]], drop=1,
               after=[[-1, 0, _, _]]),
    Nm24Regrow("a dropped position may win its own tie", weight=[[1.0, _, 2.0, _]], score=[[7, 7, 7, 7]], drop=1,
               after=[[0, _, 1, _]]),
    Nm24Regrow("both of a group", weight=[[1.0, 2.0, _, _]], score=[[0, 1, 2, 3]], drop=2, after=[[_, _, -1, -1]]),
    Nm24Regrow("both of a group and one comes back", weight=[[1.0, 2.0, _, _]], score=[[0, 5, 0, 7]], drop=2,
               after=[[_, 1, _, -1]]),
    Nm24Regrow("every group for itself",
               weight=[[0.1, 0.2, _, _, 8.0, 9.0, _, _]], score=[[0, 0, 1, 2, 0, 0, 50, 60]], drop=2,
               after=[[_, _, -1, -1, 2, 3, _, _]]),
    Nm24Regrow("three columns have an alternative", weight=[[_, 3.0, 1.0]], score=[[4, 0, 0]], drop=1, after=[[-1, 0, _]]),
    Nm24Regrow("two columns have none",
               weight=[[1.0, 2.0, _, _, 0.1, 0.2]], score=[[0, 0, 3, 0, 9, 9]], drop=1,
               after=[[_, 1, -1, _, 2, 3]]),
    Nm24Regrow("one column has none",
               weight=[[1.0, 2.0, _, _, 0.1]], score=[[0, 0, 1, 1, 9]], drop=2,
               after=[[_, _, -1, -1, 2]]),
    Nm24Regrow("NaN scores are the largest, infinite ones next",
               weight=[[1.0, _, 2.0, _], [4.0, _, 3.0, _]], score=[[5, inf, 7, nan], [0, inf, 9, -nan]], drop=3,
               after=[[_, -1, _, -1], [2, _, _, -1]]),
    Nm24Regrow("NaN weights are kept",
               weight=[[nan, 1.0, _, _], [-inf, 2.0, _, _]], score=[[0, 0, 1, 0], [0, 0, 1, 0]], drop=2,
               after=[[0, _, -1, _], [2, _, -1, _]]),
    Nm24Regrow("minus zero equals zero",
               weight=[[0.0, -0.0, _, _], [-0.0, 0.0, _, _]], score=[[-0.0, 0.0, -0.0, 0.0], [0.0, -0.0, 0.0, -0.0]], drop=3,
               after=[[0, 1, _, _], [2, 3, _, _]]),
    Nm24Regrow("nothing to do", weight=[[1.0, _, _, 2.0]], score=[[0, 9, 9, 0]], drop=0, after=[[0, _, _, 1]]),
)  # fmt: skip
del _

# Philox4x32-10, Random123 1.14, examples/kat_vectors: (counter, key, result).
PHILOX = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
)  # fmt: skip
