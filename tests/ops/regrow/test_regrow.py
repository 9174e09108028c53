"""What every topology update must keep: counts, order, ties and the slot map. Hand-computed updates are in test_ops.py."""

import pytest
import torch
from cases import UPDATES, Shape, problem, sum_dtype

from sparse_ext.ops import OPS, Candidates, product, reference
from sparse_ext.ops.boundary.checks import check_pattern

ROWS, COLS, NNZ = 8, 16, 37


def linear(row_ptr, col_idx, cols):
    """r * cols + c of every entry."""
    rows = torch.repeat_interleave(torch.arange(row_ptr.numel() - 1, device=row_ptr.device), row_ptr.diff().long())
    return rows * cols + col_idx[: rows.numel()].long()


@pytest.mark.parametrize("growth", ["score", "random"])
def test_counts_are_exact_over_many_updates_with_many_ties(growth, device, kind):
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(ROWS * COLS, dtype=torch.bool)
    mask[torch.randperm(ROWS * COLS, generator=generator)[:NNZ]] = True
    row_ptr, col_idx = OPS["csr_from_mask"](mask.view(ROWS, COLS).to(device), NNZ + 2)
    for step in range(UPDATES[kind]):
        weight = torch.randint(-1, 2, (NNZ + 2,), generator=generator).float().to(device)  # three values, two magnitudes
        score = torch.randint(-1, 2, (ROWS, COLS), generator=generator).float().to(device) if growth == "score" else None
        count = step % (NNZ + 1)
        new_row_ptr, new_col_idx, source = OPS["regrow"](weight, row_ptr, col_idx, COLS, score, step, count, count)

        assert int(new_row_ptr[-1]) == NNZ
        check_pattern("new", new_row_ptr, new_col_idx, ROWS, COLS)  # sorted, in range, monotone
        assert (new_col_idx[NNZ:] == 0).all()
        assert (source[NNZ:] == -1).all()
        before, after = linear(row_ptr, col_idx, COLS), linear(new_row_ptr, new_col_idx, COLS)
        # An entry has a source exactly where the old pattern had it, and it is that one: so each is used once at most.
        old = torch.full((ROWS * COLS,), -1, device=device, dtype=torch.int32)
        old[before] = torch.arange(NNZ, device=device, dtype=torch.int32)
        assert torch.equal(source[:NNZ], old[after])
        kept = torch.argsort(weight[:NNZ].abs(), descending=True, stable=True)[: NNZ - count]
        assert torch.isin(before[kept], after).all()
        row_ptr, col_idx = new_row_ptr, new_col_idx


def test_ties_everywhere_go_to_the_lowest_positions(device, dtype):
    p = problem(Shape(6, 11, 1, 0.4, spare=9), dtype, device)
    p.weight[: p.pattern.nnz] = -2.5
    score = torch.ones(6, 11, dtype=sum_dtype(dtype), device=device)
    drop, nnz = 10, p.pattern.nnz
    row_ptr, col_idx, _ = OPS["regrow"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, 11, score, 0, drop, drop + 9)
    kept = p.pattern.positions()[: nnz - drop].tolist()
    grown = [i for i in range(66) if i not in kept][: drop + 9]
    assert linear(row_ptr, col_idx, 11).tolist() == sorted(kept + grown)


def test_every_position_can_be_grown(device):
    p = problem(Shape(5, 7, 1, 0.3, spare=100), device=device)
    capacity = p.pattern.capacity
    grow = 35 - p.pattern.nnz
    row_ptr, col_idx, source = OPS["regrow"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, 7, p.score, 0, 0, grow)
    assert linear(row_ptr, col_idx, 7).tolist() == list(range(35))
    assert sorted(source[source >= 0].tolist()) == list(range(p.pattern.nnz))
    assert col_idx.numel() == source.numel() == capacity


def test_close_magnitudes_are_told_apart(device, dtype):
    """Neighbouring floats differ in the last digit that a radix select looks at."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    weight = torch.ones(8, dtype=dtype, device=device)
    weight.view(bits).add_(torch.tensor([3, 1, 7, 0, 6, 2, 5, 4], device=device, dtype=bits))
    row_ptr = torch.tensor([0, 8], dtype=torch.int32, device=device)
    col_idx = torch.arange(8, dtype=torch.int32, device=device)
    score = torch.zeros(1, 8, dtype=sum_dtype(dtype), device=device)
    kept = OPS["regrow"](weight, row_ptr, col_idx, 8, score, 0, 5, 0)[1][:3].tolist()
    assert kept == [2, 4, 6]


# ---- streamed: from candidates of the score ------------------------------------------------------------------------------


def streamed(p, score, drop, grow, cuts, size=None):
    """regrow by tiles of the score that end at the rows `cuts`."""
    best = Candidates.empty(p.weight, p.pattern.capacity, grow if size is None else size, score.dtype)
    for begin, end in zip([0, *cuts], [*cuts, score.shape[0]], strict=True):
        OPS["regrow_candidates_"](*best.tensors, p.pattern.row_ptr, p.pattern.col_idx, score[begin:end], begin)
    return OPS["regrow_streamed"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, p.shape.cols, *best.tensors, drop, grow)


CUTS = ([], [1], [3, 3, 7], list(range(1, 20)))
SCORES = {
    "ties": lambda score: score.sign(),
    "zeros": lambda score: score * 0,
    "all apart": lambda score: torch.rand(score.shape, generator=torch.Generator().manual_seed(3)).to(score),
    "rising": lambda score: torch.arange(float(score.numel())).view(score.shape).to(score),
    "falling": lambda score: -torch.arange(float(score.numel())).flip(0).view(score.shape).to(score),
    "not finite": lambda score: score.masked_fill(score > 1, float("inf")).masked_fill(score < -1, float("nan")),
}


@pytest.mark.only("the emulator is slow: few tiles", lambda case: case.kind != "emulated" or len(case.cuts) in (0, 3))
@pytest.mark.parametrize("cuts", CUTS, ids=len)
@pytest.mark.parametrize("kind_of_score", SCORES)
def test_a_streamed_score_gives_the_same_pattern(kind_of_score, cuts, device, dtype, kind):
    """As the whole score does, and its twin."""
    slow = kind == "emulated"
    p = problem(Shape(20, 33, 1, 0.2, spare=9), dtype, device)
    score = SCORES[kind_of_score](p.score)
    nnz, free = p.pattern.nnz, 20 * 33 - p.pattern.nnz
    for drop, grow in ((nnz // 3, nnz // 3), (nnz, nnz + 9), (0, 9), (nnz // 2, 0))[: 2 if slow else 4]:
        want = OPS["regrow"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, 33, score, 0, drop, grow)
        operands = (tensor.cpu() for tensor in (p.weight, p.pattern.row_ptr, p.pattern.col_idx))
        twin = reference.regrow(*operands, 33, score.cpu(), 0, drop, grow)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(want, twin, strict=True))
        for size in (grow + 5,) if slow else (grow, grow + 5, free + 1):
            got = streamed(p, score, drop, grow, cuts, size)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_random_growth_does_not_depend_on_its_tiles(device, monkeypatch):
    p = problem(Shape(20, 33, 1, 0.2, spare=9), device=device)
    operands = (p.weight, p.pattern.row_ptr, p.pattern.col_idx, 33, None, 5, 20, 29)
    want = OPS["regrow"](*operands)
    for positions in (1, 33, 100):
        monkeypatch.setitem(product.TILE, "cpu", positions)
        assert all(torch.equal(a, b) for a, b in zip(OPS["regrow"](*operands), want, strict=True))
