"""2:4: dense [rows, cols] as groups of four, through masks of the size of the matrix."""

from __future__ import annotations

import itertools

import torch

from ..csr.reference import sum_dtype
from ..regrow.random import philox4x32, random_u32
from ..regrow.reference import top

_PAIRS = [(first, second) for first in range(4) for second in range(first + 1, 4)]
_CODES = torch.tensor([first | second << 2 for first, second in _PAIRS], dtype=torch.uint8, device="cpu")
# The 90 tiles with two ones in every row and column, as the pair of each row.
_TILES = [
    t for t in itertools.product(range(6), repeat=4) if sorted(sum((_PAIRS[p] for p in t), ())) == sorted([0, 1, 2, 3] * 2)
]


def _magnitude(dense):
    magnitude = dense.to(sum_dtype(dense.dtype)).abs()
    return magnitude.masked_fill(magnitude.isnan(), torch.inf)


def _fours(dense, rows_too=False):
    """[rows, groups, 4], with zeros for what does not exist."""
    rows, cols = dense.shape
    padded = torch.nn.functional.pad(dense, (0, -cols % 4, 0, -rows % 4 if rows_too else 0))
    return padded.view(padded.shape[0], padded.shape[1] // 4, 4)


def _largest(fours):
    """The two positions [..., 2] of the largest magnitudes, ascending; NaN is the largest."""
    return torch.argsort(fours.double().abs(), dim=-1, descending=True, stable=True)[..., :2].sort(-1).values


def _transposable(dense):
    fours = _magnitude(_fours(dense, rows_too=True))  # [4 * strips, groups, 4]
    pairs = torch.stack([fours[..., first] + fours[..., second] for first, second in _PAIRS], -1)
    row = pairs.unflatten(0, (pairs.shape[0] // 4, 4)).unbind(1)  # four times [strips, groups, 6]
    best, total = torch.zeros(row[0].shape[:2], dtype=torch.long), row[0].new_full(row[0].shape[:2], -1.0)
    for index, (p, q, r, s) in enumerate(_TILES):
        offered = (row[0][..., p] + row[1][..., q]) + (row[2][..., r] + row[3][..., s])
        best[offered > total] = index
        total = torch.maximum(total, offered)
    chosen = torch.tensor(_TILES)[best]  # [strips, groups, 4], the pair of each row
    return torch.tensor(_PAIRS)[chosen].transpose(1, 2).flatten(0, 1)[: dense.shape[0]]


def _ids(positions):
    """[rows, groups, 2] as bytes."""
    codes = (positions[..., 0] | positions[..., 1] << 2).to(torch.uint8)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2), value=4)
    return codes[:, 0::2] | codes[:, 1::2] << 4


def _positions(ids, cols):
    """The way back."""
    codes = torch.stack([ids & 15, ids >> 4], -1).flatten(1)[:, : -(-cols // 4)].long()
    return torch.stack([codes & 3, codes >> 2], -1)


def _values(dense, positions, dtype, towards_zero=0.0, scale=1.0):
    kept = _fours(dense).to(sum_dtype(dense.dtype)).gather(-1, positions)
    kept = torch.where(kept < 0, kept + towards_zero, kept - towards_zero) * scale
    return kept.flatten(1).to(dtype)


def _columns(dense, positions, dtype, scale=1.0):
    """values and ids of the transpose: by column, the rows that have it; a strip that ends early gets what is missing there."""
    mask = torch.zeros(_fours(dense).shape, dtype=torch.bool).scatter_(-1, positions, True).flatten(1)[:, : dense.shape[1]]
    fours = _fours(mask.t()).clone()
    for i in (3, 2, 1, 0):
        fours[..., i] |= fours.sum(-1) < 2
    positions_t = _largest(fours)
    return _values(dense.t(), positions_t, dtype, scale=scale), _ids(positions_t)


def nm24_prune(dense, choice, dtype=None, scale=1.0):
    dtype, scale = dtype or dense.dtype, float(torch.tensor(scale, dtype=torch.float32))
    positions = _transposable(dense) if choice == "transposable" else _largest(_fours(dense))
    others = torch.ones_like(_fours(dense), dtype=torch.bool).scatter_(-1, positions, False)
    third = _magnitude(_fours(dense)).masked_fill(~others, 0.0).amax(-1, keepdim=True) if choice == "soft" else 0.0
    made = _values(dense, positions, dtype, third, scale), _ids(positions)
    return (*made, *_columns(dense, positions, dtype, scale)) if choice == "transposable" else made


def nm24_pack(dense, ids, transposed=False, dtype=None):
    dtype, positions = dtype or dense.dtype, _positions(ids, dense.shape[1])
    values = _values(dense, positions, dtype)
    return (values, *_columns(dense, positions, dtype)) if transposed else (values,)


def nm24_unpack(values, ids, cols):
    fours = values.new_zeros((values.shape[0], -(-cols // 4), 4))
    return fours.scatter_(-1, _positions(ids, cols), values.view(*fours.shape[:2], 2)).flatten(1)[:, :cols].contiguous()


def nm24_gemm(values, ids, x, bias, relu=False):
    """By absence: only stored columns meet x."""
    dtype, positions = sum_dtype(x.dtype), _positions(ids, x.shape[1])
    columns = (torch.arange(positions.shape[1])[:, None] * 4 + positions).flatten(1)  # [rows, 2 * groups]
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 4)).to(dtype)
    y = padded.new_empty((x.shape[0], values.shape[0]))
    for row, (taken, value) in enumerate(zip(columns, values.to(dtype), strict=True)):
        y[:, row] = padded[:, taken] @ value
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)


def auto_gemm(values, ids, x, bias, relu=False):
    return nm24_gemm(values, ids, x, bias, relu)


def auto_gemm_t(dense, ids, dy):
    _, values_t, ids_t = nm24_pack(dense, ids, True, dy.dtype)
    return nm24_gemm(values_t, ids_t, dy, None)


# ---- two of four, chosen at random -----------------------------------------------------------------------------------------


def _sum_others(fours):
    """Of each of four the sum of the other three, in order."""
    others = [[j for j in range(4) if j != i] for i in range(4)]
    return torch.stack([fours[..., i] + fours[..., j] + fours[..., k] for i, j, k in others], -1)


def _chosen(fours, at):
    """The position [...] into whose part of the sum `at` in [0, 1) falls, and the sum."""
    ends = [fours[..., 0]]
    for i in (1, 2, 3):
        ends.append(ends[-1] + fours[..., i])
    return sum((at * ends[-1] >= end).long() for end in ends[:3]), ends[-1]


def _numbers(rows, groups, rng, dtype):
    """The two numbers in [0, 1) of each group: [rows, groups, 2]."""
    seed, offset = rng.tolist()
    pairs = torch.arange(rows)[:, None] << 32 | torch.arange(-(-groups // 2))
    bits = philox4x32(seed, pairs, offset).view(rows, groups + groups % 2, 2)[:, :groups]
    return bits.to(dtype) * 2.0**-32 if dtype == torch.float64 else (bits >> 8).to(dtype) * 2.0**-24


def nm24_mvue(dy, rng):
    fours = _fours(dy.t())
    magnitude = fours.to(sum_dtype(dy.dtype)).abs()
    largest = magnitude.amax(-1, keepdim=True)
    a = magnitude / largest
    a = torch.where(a < 2.0**-64, 0.0, a)
    as_they_are = ((a > 0).sum(-1) < 3) | ~magnitude.isfinite().all(-1)

    numbers = _numbers(*a.shape[:2], rng, a.dtype)
    first, total = _chosen(a, numbers[..., 0])
    second, _ = _chosen(a.scatter(-1, first[..., None], 0.0), numbers[..., 1])
    positions = torch.where(as_they_are[..., None], _largest(fours), torch.stack([first, second], -1).sort(-1).values)

    odds = a / _sum_others(a)
    estimate = largest * (total[..., None] / (1 + _sum_others(odds)))
    estimate = torch.where(fours < 0, -estimate, estimate).to(dy.dtype)
    values = torch.where(as_they_are[..., None], fours, estimate).gather(-1, positions)
    rng[1] += 1
    return values.flatten(1), _ids(positions)


# ---- drop and grow in every group -----------------------------------------------------------------------------------------


def nm24_regrow(values, ids, cols, score, seed, drop):
    positions = _positions(ids, cols)
    rows, groups, _ = positions.shape
    first_column = 4 * torch.arange(groups)[:, None]
    droppable = ((first_column + positions < cols) & (first_column + 2 < cols)).view(-1)
    stays = torch.ones_like(droppable)
    stays[droppable] = top(values.reshape(-1)[droppable].double().abs(), int(droppable.sum()) - drop)

    kept = torch.zeros((rows, groups, 4), dtype=torch.bool).scatter_(-1, positions, stays.view(positions.shape))
    others = ~kept & (first_column + torch.arange(4) < cols)
    score = random_u32(seed, rows * cols).view(rows, cols) if score is None else score
    key = _fours(score.double().abs()).masked_fill(~others, -1.0)
    rank = torch.argsort(key, dim=-1, descending=True, stable=True).argsort(-1)  # NaN is the largest
    grown = _largest(kept | (others & (rank < 2 - kept.sum(-1, keepdim=True))))

    entry = torch.full((rows, groups, 4), -1, dtype=torch.int32)
    entry.scatter_(-1, positions, torch.arange(values.numel(), dtype=torch.int32).view(positions.shape))
    return _ids(grown), entry.gather(-1, grown).flatten()
