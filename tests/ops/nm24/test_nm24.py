"""2:4: what is chosen, by trying everything; exact packing; what special values do. The twin is tested in test_ops.py."""

import itertools

import pytest
import torch

from sparse_ext.ops import OPS
from sparse_ext.ops.boundary import checks

OPERATOR = "nm24_pack"  # one code for many kinds of devices, as all that is called here

prune, pack, unpack = OPS["nm24_prune"], OPS["nm24_pack"], OPS["nm24_unpack"]
inf, nan = float("inf"), float("nan")

ROWS = [row for row in itertools.product((0, 1), repeat=4) if sum(row) == 2]
TILES = torch.tensor([t for t in itertools.product(ROWS[::-1], repeat=4) if all(sum(c) == 2 for c in zip(*t, strict=True))])


def masks(tensors, shape):
    """Where values are, of `nm24_prune`'s tensors."""
    ones = torch.ones(tensors[0].shape)  # float32: not every device has every dtype
    return unpack(ones, tensors[1], shape[1]).bool()


def test_there_are_ninety_tiles():
    """ROWS is descending, so these are in ascending order of the positions of their ones."""
    assert len(TILES) == 90


@pytest.mark.parametrize("kind", ["random", "tied", "equal", "zero", "one", "huge"])
def test_a_transposable_tile_is_the_best_of_ninety(kind, device, dtype):
    count = 64
    tiles = {
        "random": torch.randn(count, 4, 4, dtype=torch.float64),
        "tied": torch.randint(-2, 3, (count, 4, 4)).double(),
        "equal": torch.full((count, 4, 4), -3.0, dtype=torch.float64),
        "zero": torch.zeros(count, 4, 4, dtype=torch.float64) * -1.0,
        "one": torch.eye(16, dtype=torch.float64).repeat(count // 16, 1).view(count, 4, 4),
        "huge": torch.where(torch.rand(count, 4, 4) < 0.1, inf, 1.0).double(),
    }[kind].to(dtype)  # fmt: skip
    dense = tiles.view(8, 8, 4, 4).transpose(1, 2).reshape(32, 32)
    got = masks([tensor.cpu() for tensor in prune(dense.to(device), "transposable")[:2]], dense.shape)
    got = got.view(8, 4, 8, 4).transpose(1, 2).reshape(count, 4, 4)

    sums = torch.float64 if dtype == torch.float64 else torch.float32
    totals = torch.where(TILES.bool(), tiles.to(sums).abs()[:, None], 0.0)  # [count, 90, 4, 4]
    if kind == "random":  # nobody rounds as the kernel does, so the best may be another one by less than that
        totals = totals.double().sum((2, 3))
        chosen = (got[:, None] == TILES.bool()).all((2, 3)).long().argmax(1)
        best = totals.max(1).values
        assert ((best - totals.gather(1, chosen[:, None])[:, 0]) <= best * torch.finfo(sums).eps * 8).all()
    else:
        totals = totals.sum((2, 3))  # exact
        first = torch.stack([(row == row.max()).nonzero()[0, 0] for row in totals])
        assert torch.equal(got, TILES[first].bool())


def test_the_largest_two_of_four(device, dtype):
    """All orders of four numbers, two of them equal, or zeros of either sign, or not finite."""
    cases = [p for four in ((1, 2, 3, 4), (1, 2, 2, 3), (2, 2, 1, 1), (0.0, -0.0, 0.0, 5), (inf, nan, 1, -inf), (nan,) * 4)
             for p in itertools.permutations(four)]  # fmt: skip
    dense = torch.tensor(cases, dtype=dtype)
    got = masks([tensor.cpu() for tensor in prune(dense.to(device), "largest")], dense.shape)
    for four, mask in zip(cases, got.tolist(), strict=True):
        order = sorted(range(4), key=lambda i: (four[i] == four[i], -abs(four[i]) if four[i] == four[i] else 0, i))
        assert [i for i in range(4) if mask[i]] == sorted(order[:2]), four


SHAPES = [(r, c) for r, c in ((1, 1), (2, 3), (3, 9), (4, 4), (5, 130), (64, 66), (97, 1), (127, 129), (128, 64), (130, 7))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("choice", ["largest", "transposable"])
def test_packing_is_exact(choice, shape, device, dtype):
    dense = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    values, ids, *transpose = prune(dense, choice)
    kept = unpack(values, ids, shape[1])
    mask = masks((values.cpu(), ids.cpu()), shape).to(device)
    assert torch.equal(kept, torch.where(mask, dense, 0))
    assert torch.equal(pack(kept, ids)[0], values)
    groups = torch.nn.functional.pad(mask, (0, -shape[1] % 4)).view(shape[0], -1, 4).sum(-1)
    assert (groups <= 2).all()
    assert shape[1] % 4 or (groups == 2).all()
    if transpose:
        assert torch.equal(unpack(*transpose, shape[0]), kept.t())
        again = pack(dense, ids, True)
        assert all(torch.equal(one, other) for one, other in zip(again, (values, *transpose), strict=True))


@pytest.mark.only("steps of 16-bit numbers are no small ones", lambda case: case.dtype.itemsize > 2)
def test_a_soft_threshold_is_continuous(device, dtype):
    """Where two magnitudes change places the one that leaves has become 0, and so is the one that comes."""
    path = torch.linspace(0, 1, 2001, dtype=dtype)[:, None]
    dense = (1 - path) * torch.tensor([[3.0, -2.0, 1.0, 0.5]], dtype=dtype) + path * torch.tensor(
        [[-1.0, 0.25, 2.0, -4.0]], dtype=dtype
    )
    bound = 2 * dense.diff(dim=0).abs().max()
    soft, hard = (unpack(*prune(dense.to(device), choice), 4).cpu().diff(dim=0).abs().max() for choice in ("soft", "largest"))
    assert soft <= bound < hard


@pytest.mark.only("float32 has narrower values", lambda case: case.dtype.itemsize == 2)
def test_values_are_rounded_from_float32(device, dtype):
    dense = torch.randn(9, 21).to(device)
    values, ids = prune(dense, "largest", dtype)
    exact, same_ids = prune(dense, "largest")
    assert torch.equal(ids, same_ids)
    assert torch.equal(values, exact.to(dtype))


def bad_ids(monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    values, ids = prune(torch.randn(4, 8), "largest")
    return unpack(values, ids * 0, 8)


BAD = {
    "choice": (lambda m: prune(torch.zeros(4, 4), "best"), ValueError, "'largest', 'soft', 'transposable', got 'best'"),
    "a vector": (lambda m: prune(torch.zeros(4), "largest"), ValueError, r"dense with 2 dimensions, got shape \(4,\)"),
    "integers": (lambda m: prune(torch.zeros(4, 4).int(), "largest"), TypeError, "dense of dtype .*, got torch.int32"),
    "narrowing": (lambda m: prune(torch.zeros(4, 4).double(), "largest", torch.bfloat16), TypeError, "got torch.float64"),
    "ids of floats": (lambda m: pack(torch.zeros(4, 4), torch.zeros(4, 1)), TypeError, "torch.uint8, got torch.float32"),
    "ids too few": (lambda m: pack(torch.zeros(4, 12), torch.zeros(4, 1).byte()), ValueError, r"\(4, 2\) .* got \(4, 1\)"),
    "values too few": (lambda m: unpack(torch.zeros(4, 2), torch.zeros(4, 1).byte(), 8), ValueError, r"\(4, 4\).*\(4, 2\)"),
    "illegal ids": (bad_ids, ValueError, r"ids among \[4, 8, 9, 12, 13, 14\], got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence(case, monkeypatch):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(monkeypatch)
