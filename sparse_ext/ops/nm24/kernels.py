"""2:4 matrices as torch operators (`torch.ops.sparse_ext.nm24_*`). Each has a twin of the same name in `reference`.

Of every four neighbours of a row two are stored. Shapes, once for all: dense [rows, cols]; with groups = ceil(cols / 4), values
[rows, 2 * groups] and ids uint8 [rows, ceil(groups / 2)]. A group's id is first | second << 2, four bits, of an even group in
the low half of its byte; a group that does not exist has 4. Values of columns that do not exist are 0. The transpose's values_t
and ids_t are the same for [cols, rows]. Wrong shapes raise ValueError, wrong dtypes TypeError, failed launches RuntimeError.
"""

from __future__ import annotations

import torch

from ..boundary import checks, views
from ..boundary.checks import check_dtype, check_values
from ..boundary.launch import DTYPES, backend_of, ready, workspace
from ..boundary.library import define

# The order of the enum Nm24Choice in csrc/common/views.h.
CHOICES = ("given", "largest", "soft", "transposable")
TENSOR_CORE_DTYPES = (DTYPES[torch.bfloat16], DTYPES[torch.float16])
_LEGAL = torch.tensor([4, 8, 9, 12, 13, 14], dtype=torch.uint8, device="cpu")


def ids_shape(rows: int, cols: int) -> tuple[int, int]:
    """Of the ids of a matrix."""
    return rows, (-(-cols // 4) + 1) // 2


def values_shape(rows: int, cols: int) -> tuple[int, int]:
    """Of the values of a matrix."""
    return rows, 2 * -(-cols // 4)


def check_codes(expected: str, ids: torch.Tensor) -> None:
    """ValueError, which begins with `expected`, unless every group's id is legal. Reads all of them."""
    codes = torch.stack([ids & 15, ids >> 4])
    if not (legal := torch.isin(codes, _LEGAL.to(ids.device))).all():
        raise ValueError(f"{expected} among {_LEGAL.tolist()}, got {int(codes[~legal][0])}")


def check_ids(op: str, ids: torch.Tensor, rows: int, cols: int, like: torch.Tensor) -> torch.Tensor:
    """ids as kernels need them; TypeError / ValueError if they are none of this matrix. In debug mode every one is read."""
    if ids.dtype is not torch.uint8:
        raise TypeError(f"{op}: expected ids of dtype torch.uint8, got {ids.dtype}")
    if ids.shape != (expected := ids_shape(rows, cols)):
        raise ValueError(f"{op}: expected ids of shape {expected} (of a [{rows}, {cols}] matrix), got {tuple(ids.shape)}")
    if ids.device != like.device:
        raise ValueError(f"{op}: expected ids on {like.device} (as the values), got {ids.device}")
    if checks.DEBUG:
        check_codes(f"{op}: expected ids", ids)
    return ready(ids)


def _check_dense(op: str, dense: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the values to be made of it."""
    if dense.dim() != 2:
        raise ValueError(f"{op}: expected dense with 2 dimensions, got shape {tuple(dense.shape)}")
    dtype = dtype or dense.dtype
    if dtype is not dense.dtype and (dense.dtype is not torch.float32 or dtype.itemsize != 2):
        raise TypeError(f"{op}: expected dense of dtype torch.float32 or {dtype} for values of {dtype}, got {dense.dtype}")
    return dtype


def _pack(
    op: str, dense: torch.Tensor, ids: torch.Tensor | None, choice: str, transposed: bool, dtype: torch.dtype, scale: float
) -> tuple[torch.Tensor, ...]:
    """values, ids and, where asked for, values_t and ids_t."""
    backend = backend_of(op, dense)
    check_dtype(op, backend, "dense", dense)
    check_dtype(op, backend, "the values", torch.empty(0, dtype=dtype))
    (rows, cols), dense = dense.shape, ready(dense)
    values = dense.new_empty(values_shape(rows, cols), dtype=dtype)
    ids = dense.new_empty(ids_shape(rows, cols), dtype=torch.uint8) if ids is None else check_ids(op, ids, rows, cols, dense)
    values_t = dense.new_empty(values_shape(cols, rows), dtype=dtype) if transposed else None
    ids_t = dense.new_empty(ids_shape(cols, rows), dtype=torch.uint8) if transposed else None
    w, wt = views.nm24(values, ids, rows, cols), (views.address(values_t), DTYPES[dtype], views.address(ids_t), cols, rows)
    backend.module.nm24_pack(w, wt, views.matrix(dense), CHOICES.index(choice), scale, backend.stream(dense))
    return (values, ids) if values_t is None or ids_t is None else (values, ids, values_t, ids_t)


@define("nm24_prune(Tensor dense, str choice, ScalarType? dtype=None, float scale=1.0) -> Tensor[]")
def nm24_prune(
    dense: torch.Tensor, choice: str, dtype: torch.dtype | None = None, scale: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """Prunes a dense matrix to 2:4. Returns values and ids; for "transposable" also values_t and ids_t.

    Args:
        choice: "largest": the two largest magnitudes of four, of equal ones the first. "soft": the same, each moved towards 0
            by the third largest magnitude (S-STE, Hu et al. 2024, https://arxiv.org/abs/2409.09099).
            "transposable": of each 4 x 4 tile the two of each row and column with the largest sum of magnitudes, of equal sums
            the first in lexicographic order (Hu et al. 2024, https://arxiv.org/abs/2404.01847).
        dtype: of the values; None: that of dense. A float32 matrix gives 16-bit values, too.
        scale: what the values are multiplied by, a float32.
    """
    op = "nm24_prune"
    if choice not in CHOICES[1:]:
        raise ValueError(f"{op}: expected choice to be one of {', '.join(map(repr, CHOICES[1:]))}, got {choice!r}")
    dtype = _check_dense(op, dense, dtype)
    return _pack(op, dense, None, choice, choice == "transposable", dtype, scale)


def empty(like: torch.Tensor, rows: int, cols: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """values and ids of a matrix, uninitialised."""
    values = like.new_empty(values_shape(rows, cols), dtype=dtype)
    return values, like.new_empty(ids_shape(rows, cols), dtype=torch.uint8)


@nm24_prune.fake
def _(dense, choice, dtype=None, scale=1.0):
    dtype = _check_dense("nm24_prune", dense, dtype)
    rows, cols = dense.shape
    made = empty(dense, rows, cols, dtype)
    return [*made, *empty(dense, cols, rows, dtype)] if choice == "transposable" else list(made)


@define("nm24_pack(Tensor dense, Tensor ids, bool transposed=False, ScalarType? dtype=None) -> Tensor[]")
def nm24_pack(
    dense: torch.Tensor, ids: torch.Tensor, transposed: bool = False, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, ...]:
    """values of a dense matrix at the ids; `transposed`: also values_t and ids_t, for ids of transposable tiles."""
    op = "nm24_pack"
    dtype = _check_dense(op, dense, dtype)
    values, _, *rest = _pack(op, dense, ids, "given", transposed, dtype, 1.0)
    return values, *rest


@nm24_pack.fake
def _(dense, ids, transposed=False, dtype=None):
    dtype = _check_dense("nm24_pack", dense, dtype)
    rows, cols = dense.shape
    values, _ = empty(dense, rows, cols, dtype)
    return [values, *empty(dense, cols, rows, dtype)] if transposed else [values]


@define("nm24_unpack(Tensor values, Tensor ids, SymInt cols) -> Tensor")
def nm24_unpack(values: torch.Tensor, ids: torch.Tensor, cols: int) -> torch.Tensor:
    """The dense matrix [rows, cols], with its zeros."""
    op, rows = "nm24_unpack", values.shape[0]
    if values.shape != (expected := values_shape(rows, cols)):
        raise ValueError(f"{op}: expected values of shape {expected} (of {cols} columns), got {tuple(values.shape)}")
    ids, values = check_ids(op, ids, rows, cols, values), ready(values)
    backend = backend_of(op, values)
    dense = values.new_empty((rows, cols))
    check_dtype(op, backend, "values", values)
    backend.module.nm24_unpack(views.matrix(dense), views.nm24(values, ids, rows, cols), backend.stream(values))
    return dense


@nm24_unpack.fake
def _(values, ids, cols):
    return values.new_empty((values.shape[0], cols))


def check_matmul(
    op: str, values: torch.Tensor, ids: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None
) -> tuple[int, int]:
    """rows and cols of the matrix, after checking that x [tokens, cols] can meet it."""
    if values.dim() != 2 or x.dim() != 2 or values.shape[1] != 2 * -(-x.shape[1] // 4):
        got = f"{tuple(values.shape)} and {tuple(x.shape)}"
        raise ValueError(f"{op}: expected values [rows, 2 * ceil(cols / 4)] and x [tokens, cols], got shapes {got}")
    rows, cols = values.shape[0], x.shape[1]
    check_values(op, "x", x, values=values, bias=bias)
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"{op}: expected bias of shape ({rows},), got {tuple(bias.shape)}")
    return rows, cols


def multiply(
    op: str, values: torch.Tensor, ids: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, relu: bool
) -> torch.Tensor:
    """The kernel behind the products, of checked values, x and bias."""
    rows, cols = values.shape[0], x.shape[1]
    backend = backend_of(op, x)
    dtype = check_dtype(op, backend, "x", x)
    if dtype not in TENSOR_CORE_DTYPES and hasattr(backend.module, "device_count"):
        raise TypeError(f"{op}: expected x of dtype bfloat16, float16 (what tensor cores multiply 2:4), got {x.dtype}")
    ids, values, x = check_ids(op, ids, rows, cols, x), ready(values), ready(x)
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty((x.shape[0], rows))
    w, x_view, stream = views.nm24(values, ids, rows, cols), views.matrix(x), backend.stream(x)
    space = workspace(x, backend.module.nm24_gemm_workspace(w, x_view, stream))
    backend.module.nm24_gemm(views.matrix(y), w, x_view, views.address(bias), relu, views.address(space), stream)
    return y


@define(
    "nm24_gemm(Tensor values, Tensor ids, Tensor x, Tensor? bias, bool relu=False) -> Tensor",
    flops=lambda values, ids, x, *_, **__: 2 * values.numel() * x.shape[0],
)
def nm24_gemm(
    values: torch.Tensor, ids: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, relu: bool = False
) -> torch.Tensor:
    """y [tokens, rows] = x [tokens, cols] W^T + bias, or torch.relu of that. On CUDA bfloat16 and float16 only.

    Given values_t and ids_t of a transposable matrix and dy in place of x, the same product is the input gradient.
    """
    check_matmul("nm24_gemm", values, ids, x, bias)
    return multiply("nm24_gemm", values, ids, x, bias, relu)


@nm24_gemm.fake
def _(values, ids, x, bias, relu=False):
    check_matmul("nm24_gemm", values, ids, x, bias)
    return x.new_empty((x.shape[0], values.shape[0]))
