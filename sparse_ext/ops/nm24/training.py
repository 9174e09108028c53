"""2:4 operators for training: unbiased 2:4 estimates of output gradients, and regrowth.

Shapes and ids are those of kernels.py. Wrong shapes raise ValueError, wrong dtypes TypeError, failed launches RuntimeError.
"""

from __future__ import annotations

import torch

from ..boundary import views
from ..boundary.checks import check_dtype
from ..boundary.launch import DTYPES, backend_of, ready
from ..boundary.library import define
from ..csr.conversions import csr_from_mask, csr_pack, csr_unpack
from ..regrow.candidates import Candidates, check_score, score_dtype
from ..regrow.kernels import rebuild
from .kernels import check_ids, empty, values_shape


def _check_mvue(op: str, dy: torch.Tensor, rng: torch.Tensor) -> None:
    if dy.dim() != 2:
        raise ValueError(f"{op}: expected dy with 2 dimensions, got shape {tuple(dy.shape)}")
    if rng.dtype is not torch.int64:
        raise TypeError(f"{op}: expected rng of dtype torch.int64, got {rng.dtype}")
    if rng.shape != (2,) or rng.device != dy.device:
        raise ValueError(f"{op}: expected rng (2,) on {dy.device} (as dy), got {tuple(rng.shape)} on {rng.device}")


@define("nm24_mvue(Tensor dy, Tensor(a!) rng) -> (Tensor, Tensor)")
def nm24_mvue(dy: torch.Tensor, rng: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """values_t and ids_t: the transpose of an output gradient, estimated without bias by two of every four tokens.

    Of four neighbouring tokens with magnitudes a_i two are chosen, without replacement, each in proportion to a_i. With p_i the
    probability that i is among them, x_i / p_i is stored: its mean is x_i (Chmiel et al. 2022, "Minimum Variance Unbiased N:M
    Sparsity for the Neural Gradients", https://arxiv.org/abs/2203.10991: the approximate estimator of 2:4; in training, Hu et
    al. 2024, https://arxiv.org/abs/2404.01847). It is up to twice the largest of the four, and so may overflow to Inf.

    Where fewer than three of a group are not 0, or one is Inf or NaN, the two largest are kept as they are, of equal ones the
    first; NaN is larger than Inf. So an Inf or NaN in a group is seen in its values: NaN if there is one, and at most two of
    them. Less than 2^-64 of a group's largest counts as 0, and so do tokens that do not exist.

    Args:
        dy: [tokens, rows].
        rng: int64 [2], (seed, offset), on the device of dy. What is chosen in a group is a pure function of these two, the
            group's numbers and its place: the same bits on every device. Afterwards offset is one more.

    Returns:
        values_t [rows, 2 * ceil(tokens / 4)] of the dtype of dy, computed in float32 (float64 for float64), and
        ids_t uint8 [rows, ceil(ceil(tokens / 4) / 2)].
    """
    op = "nm24_mvue"
    _check_mvue(op, dy, rng)
    backend = backend_of(op, dy)
    check_dtype(op, backend, "dy", dy)
    (tokens, rows), dy, state = dy.shape, ready(dy), ready(rng)
    values_t, ids_t = empty(dy, rows, tokens, dy.dtype)
    wt = views.nm24(values_t, ids_t, rows, tokens)
    backend.module.nm24_mvue(wt, views.matrix(dy), state.data_ptr(), backend.stream(dy))
    rng[1] += 1
    return values_t, ids_t


@nm24_mvue.fake
def _(dy, rng):
    _check_mvue("nm24_mvue", dy, rng)
    return empty(dy, dy.shape[1], dy.shape[0], dy.dtype)


def _check_regrow(op: str, values: torch.Tensor, cols: int, score: torch.Tensor | None) -> None:
    width = values_shape(0, cols)[1]
    if values.dim() != 2 or values.shape[1] != width:
        raise ValueError(f"{op}: expected values of shape (rows, {width}) (of {cols} columns), got {tuple(values.shape)}")
    if score is not None:
        check_score(op, "score", score, values, (values.shape[0], cols))


def _droppable(ids: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """bool [rows, 2 * groups]: entries in columns that exist, in groups that have a third one."""
    shape, last = values_shape(rows, cols), cols % 4
    droppable = torch.ones(shape, dtype=torch.bool, device=ids.device)
    if last == 3:  # of a transposable tile an entry may lie in the fourth
        codes = ids[:, -1] >> (0 if shape[1] % 4 else 4)
        droppable[:, -2:] = torch.stack([codes & 3, codes >> 2 & 3], 1) < 3
    elif last:
        droppable[:, -2:] = False
    return droppable


def _stays(op: str, values: torch.Tensor, ids: torch.Tensor, cols: int, drop: int) -> torch.Tensor:
    """bool [rows, 2 * groups]: all entries but the `drop` droppable ones of smallest magnitude, chosen as regrow chooses."""
    droppable = _droppable(ids, values.shape[0], cols)
    entries = int(droppable.sum())
    if not 0 <= drop <= entries:
        raise ValueError(f"{op}: expected drop between 0 and {entries} (entries whose group has another column), got {drop}")
    row_ptr, col_idx = csr_from_mask(droppable, entries)
    weight, width = csr_pack(values, row_ptr, col_idx), values.shape[1]
    none = Candidates.empty(weight, entries, 0, None)
    row_ptr, col_idx, _ = rebuild(op, weight, row_ptr, col_idx, width, none, 0, drop, 0)
    return (csr_unpack(torch.ones_like(weight), row_ptr, col_idx, width) != 0) | ~droppable


@define("nm24_regrow(Tensor values, Tensor ids, int cols, Tensor? score, int seed, int drop) -> (Tensor, Tensor)")
def nm24_regrow(
    values: torch.Tensor, ids: torch.Tensor, cols: int, score: torch.Tensor | None, seed: int, drop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drops the `drop` entries of smallest |value|; then every group grows as many as it has lost, by largest score.

    N:M-RigL: RigL's step (Evci et al. 2020, "Rigging the Lottery", Algorithm 1) inside the groups of four. Candidates of a
    group are all its columns that are not kept, just-dropped ones included; so it has two entries again. As in `regrow`, ties
    go to the lower linear index, and NaN is the largest, of values and of scores. Entries in columns that do not exist, and in
    a last group of one or two columns, which have no alternative, stay and do not count.

    Args:
        values: [rows, 2 * ceil(cols / 4)]; ids: uint8, of the same matrix.
        score: dense [rows, cols] of the sums' dtype (float32; float64 for float64), ranked by absolute value;
            None: the Philox stream `seed`, element r * cols + c (as Mocanu et al. 2018, SET, grow at random).

    Returns:
        ids of the new pattern, and source int32 [rows * 2 * ceil(cols / 4)]: the old entry, an index into the flattened values,
        that each new one was, or -1 where it is new. A position dropped and grown at once keeps its entry.
    """
    op, rows = "nm24_regrow", values.shape[0]
    _check_regrow(op, values, cols, score)
    if values.numel() >= 2**31:
        raise ValueError(f"{op}: expected fewer than 2^31 values (source is int32), got {values.numel()}")
    backend = backend_of(op, values)
    check_dtype(op, backend, "values", values)
    ids = check_ids(op, ids, rows, cols, values)
    stays = _stays(op, values, ids, cols, drop)
    score = None if score is None else ready(score)
    new_ids, source = torch.empty_like(ids), torch.empty(values.numel(), dtype=torch.int32, device=values.device)
    score_view = (views.address(score), DTYPES[score_dtype(values.dtype)], rows, cols)
    grown, old = views.nm24(source, new_ids, rows, cols), views.nm24(stays, ids, rows, cols)
    backend.module.nm24_regrow(grown, old, score_view, seed, backend.stream(values))
    return new_ids, source


@nm24_regrow.fake
def _(values, ids, cols, score, seed, drop):
    _check_regrow("nm24_regrow", values, cols, score)
    return torch.empty_like(ids, memory_format=torch.contiguous_format), values.new_empty((values.numel(),), dtype=torch.int32)
