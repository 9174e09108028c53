"""Every operator in plain PyTorch, through the dense matrix: the truth for tests. Slow and simple on purpose."""

from __future__ import annotations

import itertools

import torch


def _entries(row_ptr: torch.Tensor, col_idx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column (int64) of each of the nnz entries."""
    rows = torch.repeat_interleave(torch.arange(row_ptr.numel() - 1, device=row_ptr.device), row_ptr.diff().long())
    return rows, col_idx[: rows.numel()].long()


def _padded(values: torch.Tensor, capacity: int, fill: int = 0) -> torch.Tensor:
    return torch.cat([values, values.new_full((capacity - values.numel(),), fill)])


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def csr_pack(dense: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> torch.Tensor:
    return _padded(dense[_entries(row_ptr, col_idx)], col_idx.numel())


def csr_unpack(weight: torch.Tensor, row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> torch.Tensor:
    dense = weight.new_zeros((row_ptr.numel() - 1, cols))
    rows, columns = _entries(row_ptr, col_idx)
    dense[rows, columns] = weight[: rows.numel()]
    return dense


def csr_spmm(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    """By absence, not by zeros: only stored entries meet x, so Inf and NaN in x reach y through them alone."""
    dtype = _sum_dtype(x.dtype)
    rows, columns = _entries(row_ptr, col_idx)
    terms = x[:, columns].to(dtype) * weight[: rows.numel()].to(dtype)
    y = x.new_zeros((x.shape[0], row_ptr.numel() - 1), dtype=dtype).index_add_(1, rows, terms)
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)


def csr_spmm_t(weight, col_ptr, row_idx, slot, rows, dy):
    return csr_spmm(weight[slot.long()], col_ptr, row_idx, rows, dy, None)


def csr_sddmm(row_ptr, col_idx, cols, dy, x):
    dtype = _sum_dtype(x.dtype)
    rows, columns = _entries(row_ptr, col_idx)
    dw = (dy[:, rows].to(dtype) * x[:, columns].to(dtype)).sum(0)
    return _padded(dw.to(x.dtype), col_idx.numel())


def densified_matmul(weight, row_ptr, col_idx, cols, x, bias, relu=False):
    """By zeros, not by absence: these meet Inf and NaN in x."""
    dtype = _sum_dtype(x.dtype)
    y = x.to(dtype) @ csr_unpack(weight, row_ptr, col_idx, cols).to(dtype).t()
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)


def densified_matmul_t(weight, row_ptr, col_idx, cols, dy):
    dtype = _sum_dtype(dy.dtype)
    return (dy.to(dtype) @ csr_unpack(weight, row_ptr, col_idx, cols).to(dtype)).to(dy.dtype)


def densified_grad_weight(row_ptr, col_idx, cols, dy, x):
    return csr_sddmm(row_ptr, col_idx, cols, dy, x)


def csr_from_mask(mask: torch.Tensor, capacity: int):
    row_ptr = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return row_ptr.int(), _padded(mask.nonzero()[:, 1].int(), capacity)


def csr_transpose(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int):
    rows, columns = _entries(row_ptr, col_idx)
    order = torch.argsort(columns, stable=True)  # entries are by row already
    counts = torch.bincount(columns, minlength=cols)
    col_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    capacity = col_idx.numel()
    return col_ptr.int(), _padded(rows[order].int(), capacity), _padded(order.int(), capacity)


def random_u32(seed: int, count: int) -> torch.Tensor:
    """The first `count` elements of the Philox4x32-10 stream `seed` (csrc/common/random.h), as int64 [count]."""
    mask = 0xFFFFFFFF
    block = torch.arange((count + 3) // 4)
    c = [block & mask, block >> 32, torch.zeros_like(block), torch.zeros_like(block)]
    key = [seed & mask, (seed >> 32) & mask]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]  # int64 wraps, and the low 64 bits are what is wanted
        c = [((b >> 32) & mask) ^ c[1] ^ key[0], b & mask, ((a >> 32) & mask) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return torch.stack(c, 1).reshape(-1)[:count]


def _top(key: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` largest; among equal ones the lower index wins; NaN is the largest."""
    chosen = torch.zeros(key.numel(), dtype=torch.bool)
    chosen[torch.argsort(key, descending=True, stable=True)[:count]] = True
    return chosen


def _regrown(weight, row_ptr, col_idx, cols, key, drop, grow):
    """By the growth key [rows * cols], of which the largest win; NaN is the largest."""
    rows_of, columns = _entries(row_ptr, col_idx)
    nnz, positions = rows_of.numel(), (row_ptr.numel() - 1) * cols
    linear = rows_of * cols + columns
    kept = linear[_top(weight[:nnz].double().abs(), nnz - drop)]

    key[kept] = -2.0  # not a candidate
    mask = _top(key, grow)
    mask[kept] = True

    entry = torch.full((positions,), -1, dtype=torch.int32)
    entry[linear] = torch.arange(nnz, dtype=torch.int32)
    new_row_ptr, new_col_idx = csr_from_mask(mask.view(-1, cols), col_idx.numel())
    return new_row_ptr, new_col_idx, _padded(entry[mask], col_idx.numel(), fill=-1)


def regrow(weight, row_ptr, col_idx, cols, score, seed, drop, grow):
    positions = (row_ptr.numel() - 1) * cols
    key = random_u32(seed, positions).double() if score is None else score.reshape(-1).double().abs()
    return _regrown(weight, row_ptr, col_idx, cols, key, drop, grow)


def regrow_candidates_(at_entry, score, position, count, row_ptr, col_idx, tile, first_row):
    cols, rows = tile.shape[1], row_ptr.numel() - 1
    rows_of, columns = _entries(row_ptr, col_idx)
    dense = tile.new_zeros((rows, cols))
    dense[first_row : first_row + tile.shape[0]] = tile
    here = (rows_of >= first_row) & (rows_of < first_row + tile.shape[0])
    at_entry[: here.numel()][here] = dense[rows_of, columns][here]

    free = torch.zeros((rows, cols), dtype=torch.bool)
    free[first_row : first_row + tile.shape[0]] = True
    free[rows_of, columns] = False
    all_scores = torch.cat([score[: int(count)], dense[free]])
    all_positions = torch.cat([position[: int(count)], free.reshape(-1).nonzero().reshape(-1)])
    chosen = _top(all_scores.abs(), score.numel())  # both lists are by position
    count.fill_(int(chosen.sum()))
    score[: int(count)] = all_scores[chosen]
    position[: int(count)] = all_positions[chosen]


def regrow_streamed(weight, row_ptr, col_idx, cols, at_entry, score, position, count, drop, grow):
    rows = row_ptr.numel() - 1
    dense = at_entry.new_zeros((rows, cols))
    free = torch.ones((rows, cols), dtype=torch.bool)
    rows_of, columns = _entries(row_ptr, col_idx)
    dense[rows_of, columns], free[rows_of, columns] = at_entry[: rows_of.numel()], False
    # As a dense score again, in which what is neither an entry nor a candidate is below all others.
    free.view(-1)[position[: int(count)]] = False
    dense.view(-1)[position[: int(count)]] = score[: int(count)]
    return _regrown(
        weight, row_ptr, col_idx, cols, dense.reshape(-1).double().abs().masked_fill(free.reshape(-1), -1.0), drop, grow
    )


def add_outer_(total, passes, dy, x):
    total += (dy.to(total.dtype)[:, :, None] * x.to(total.dtype)[:, None, :]).sum(0)
    passes += 1


def stream_outer_(at_entry, score, position, count, passes, row_ptr, col_idx, dy, x):
    tile = (dy.to(score.dtype)[:, :, None] * x.to(score.dtype)[:, None, :]).sum(0)
    regrow_candidates_(at_entry, score, position, count, row_ptr, col_idx, tile, 0)
    passes += 1


# ---- 2:4: dense [rows, cols] as groups of four, through masks of the size of the matrix ------------------------------------

_PAIRS = [(first, second) for first in range(4) for second in range(first + 1, 4)]
_CODES = torch.tensor([first | second << 2 for first, second in _PAIRS], dtype=torch.uint8)
# The 90 tiles with two ones in every row and column, as the pair of each row.
_TILES = [
    t for t in itertools.product(range(6), repeat=4) if sorted(sum((_PAIRS[p] for p in t), ())) == sorted([0, 1, 2, 3] * 2)
]


def _magnitude(dense):
    magnitude = dense.to(_sum_dtype(dense.dtype)).abs()
    return magnitude.masked_fill(magnitude.isnan(), torch.inf)


def _fours(dense, rows_too=False):
    """[rows, groups, 4], with zeros for what does not exist."""
    rows, cols = dense.shape
    padded = torch.nn.functional.pad(dense, (0, -cols % 4, 0, -rows % 4 if rows_too else 0))
    return padded.view(padded.shape[0], -1, 4)


def _largest(fours):
    """The two positions [..., 2] of the largest magnitudes, ascending; NaN is the largest."""
    return torch.argsort(fours.double().abs(), dim=-1, descending=True, stable=True)[..., :2].sort(-1).values


def _transposable(dense):
    fours = _magnitude(_fours(dense, rows_too=True))  # [4 * strips, groups, 4]
    pairs = torch.stack([fours[..., first] + fours[..., second] for first, second in _PAIRS], -1)
    row = pairs.view(-1, 4, *pairs.shape[1:]).unbind(1)  # four times [strips, groups, 6]
    best, total = torch.zeros(row[0].shape[:2], dtype=torch.long), row[0].new_full(row[0].shape[:2], -1.0)
    for index, (p, q, r, s) in enumerate(_TILES):
        offered = (row[0][..., p] + row[1][..., q]) + (row[2][..., r] + row[3][..., s])
        best[offered > total] = index
        total = torch.maximum(total, offered)
    chosen = torch.tensor(_TILES)[best]  # [strips, groups, 4], the pair of each row
    return torch.tensor(_PAIRS)[chosen].transpose(1, 2).reshape(-1, fours.shape[1], 2)[: dense.shape[0]]


def _ids(positions):
    """[rows, groups, 2] as bytes."""
    codes = (positions[..., 0] | positions[..., 1] << 2).to(torch.uint8)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2), value=4)
    return codes[:, 0::2] | codes[:, 1::2] << 4


def _positions(ids, cols):
    """The way back."""
    codes = torch.stack([ids & 15, ids >> 4], -1).reshape(ids.shape[0], -1)[:, : -(-cols // 4)].long()
    return torch.stack([codes & 3, codes >> 2], -1)


def _values(dense, positions, dtype, towards_zero=0.0, scale=1.0):
    kept = _fours(dense).to(_sum_dtype(dense.dtype)).gather(-1, positions)
    kept = torch.where(kept < 0, kept + towards_zero, kept - towards_zero) * scale
    return kept.flatten(1).to(dtype)


def _columns(dense, positions, dtype):
    """values and ids of the transpose: by column, the rows that have it; a strip that ends early gets what is missing there."""
    mask = torch.zeros(_fours(dense).shape, dtype=torch.bool).scatter_(-1, positions, True).flatten(1)[:, : dense.shape[1]]
    fours = _fours(mask.t()).clone()
    for i in (3, 2, 1, 0):
        fours[..., i] |= fours.sum(-1) < 2
    positions_t = _largest(fours)
    return _values(dense.t(), positions_t, dtype), _ids(positions_t)


def nm24_prune(dense, choice, dtype=None, scale=1.0):
    dtype = dtype or dense.dtype
    positions = _transposable(dense) if choice == "transposable" else _largest(_fours(dense))
    others = torch.ones_like(_fours(dense), dtype=torch.bool).scatter_(-1, positions, False)
    third = _magnitude(_fours(dense)).masked_fill(~others, 0.0).amax(-1, keepdim=True) if choice == "soft" else 0.0
    made = _values(dense, positions, dtype, third, scale), _ids(positions)
    return (*made, *_columns(dense, positions, dtype)) if choice == "transposable" else made


def nm24_pack(dense, ids, transposed=False, dtype=None):
    dtype, positions = dtype or dense.dtype, _positions(ids, dense.shape[1])
    values = _values(dense, positions, dtype)
    return (values, *_columns(dense, positions, dtype)) if transposed else (values,)


def nm24_unpack(values, ids, cols):
    fours = values.new_zeros((values.shape[0], -(-cols // 4), 4))
    return fours.scatter_(-1, _positions(ids, cols), values.view(*fours.shape[:2], 2)).flatten(1)[:, :cols].contiguous()


def nm24_gemm(values, ids, x, bias, relu=False):
    """By absence: only stored columns meet x."""
    dtype, positions = _sum_dtype(x.dtype), _positions(ids, x.shape[1])
    columns = (torch.arange(positions.shape[1])[:, None] * 4 + positions).flatten(1)  # [rows, 2 * groups]
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 4)).to(dtype)
    y = torch.stack([padded[:, row] @ value for row, value in zip(columns, values.to(dtype), strict=True)], 1)
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)
