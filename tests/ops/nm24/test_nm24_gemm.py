"""The 2:4 product at sampled shapes, across tiles and stages, forward and as the input gradient. See also test_ops.py."""

import random

import pytest
import torch
from cases import assert_agrees

from sparse_ext.ops import OPS

prune, unpack, gemm = OPS["nm24_prune"], OPS["nm24_unpack"], OPS["nm24_gemm"]
inf, nan = float("inf"), float("nan")

# (rows, cols, tokens), each from 1 to 130, and what lies at the edges of a tile of 128 and a step of 64.
random_sizes = random.Random(0)
SAMPLED = [tuple(random_sizes.randint(1, 130) for _ in range(3)) for _ in range(40)]
EDGES = [
    (1, 1, 1),
    (128, 64, 128),
    (129, 65, 129),
    (127, 63, 127),
    (130, 130, 130),
    (8, 32, 8),
    (64, 128, 1),
    (1, 96, 64),
    (2, 7, 130),
]
LARGE = [(300, 520, 150), (131, 1100, 70), (600, 40, 333)]
# On sm_90a, where columns are multiples of 16: four blocks have 512 rows, 256 tokens and 64 columns at a time, in four stages,
# and three clusters, as many as the emulated device has at a time, take tile after tile.
ACROSS = [
    (8, 16, 8),  # a quarter of a step
    (128, 64, 256),  # exactly one of everything
    (7, 48, 257),  # rows that 128-bit stores do not fit; a token more than a tile
    (520, 80, 30),  # a few rows more than a cluster, a quarter more than a step
    (130, 656, 40),  # every stage three times, and half of a step
    (1030, 208, 520),  # nine tiles for three clusters, an even number of steps
    (4100, 16, 270),  # two panels of rows
    *((random_sizes.randint(1, 130), 16 * random_sizes.randint(1, 8), random_sizes.randint(1, 130)) for _ in range(10)),
]


def numbers(*shape, device, dtype):
    """Multiples of 1/8, with ties."""
    return ((torch.randn(shape) * 8).round() / 8).to(device, dtype)


@pytest.mark.only(
    "sm_90a multiplies whole pieces of 16 columns, and leaves the rest to sm_80's kernel",
    lambda case: (case.shape in ACROSS) == case.isa.startswith("sm_90a"),
)
@pytest.mark.parametrize("shape", SAMPLED + EDGES + LARGE + ACROSS, ids=str)
def test_any_shape(shape, device, dtype):
    rows, cols, tokens = shape
    values, ids = prune(numbers(rows, cols, device=device, dtype=dtype), "largest")
    x, bias = numbers(tokens, cols, device=device, dtype=dtype), numbers(rows, device=device, dtype=dtype)
    for rest in ((None,), (bias, True)):
        assert_agrees("nm24_gemm", (values, ids, x, *rest), dtype)


@pytest.mark.parametrize("shape", [(8, 12, 5), (7, 30, 33), (130, 68, 9)], ids=str)
def test_the_transpose_is_the_input_gradient(shape, device, dtype):
    rows, cols, tokens = shape
    values, ids, values_t, ids_t = prune(numbers(rows, cols, device=device, dtype=dtype), "transposable")
    dense, dy = unpack(values, ids, cols).cpu().double(), numbers(tokens, rows, device=device, dtype=dtype)
    dx = gemm(values_t, ids_t, dy, None).cpu()
    exact = dy.cpu().double() @ dense  # sums of a few multiples of 1/64
    assert torch.equal(dx, exact.to(dtype))


def test_columns_that_are_not_stored_do_not_meet_x(device, dtype):
    dense = torch.tensor([[5.0, 4, 0, 0], [0, 0, 4, 5], [5, 0, 0, 4]]).repeat(50, 20).to(device, dtype)
    x = torch.ones(3, 80)
    x[0, 41], x[1, 40], x[2, 43] = inf, nan, -inf  # the second, first and last of a group
    y = gemm(*prune(dense, "largest"), x.to(device, dtype), None).cpu().float()
    by_kind = torch.tensor([[inf, 180, 180], [nan, 180, nan], [180, -inf, -inf]])  # of each token the three kinds of rows
    torch.testing.assert_close(y, by_kind.repeat(1, 50), rtol=0, atol=0, equal_nan=True)


def test_a_row_ends_at_its_last_column(device, dtype):
    """What begins the next row or token is Inf here, and does not reach the one before."""
    dense, x = torch.ones(132, 80), torch.ones(34, 80)
    dense[1::2, 0] = inf
    x[1::2, 0] = inf
    y = gemm(*prune(dense.to(device, dtype), "largest"), x.to(device, dtype), None).cpu().float()
    assert torch.equal(y[::2, ::2], torch.full((17, 66), 40.0))
    assert (y[1::2] == inf).all()
    assert (y[:, 1::2] == inf).all()


@pytest.mark.only("threads of a CPU", lambda case: case.kind == "cpu")
def test_same_bits_for_any_thread_count(device, dtype):
    values, ids = prune(torch.randn(150, 260, dtype=torch.float64).to(dtype), "largest")
    x = torch.randn(300, 260, dtype=torch.float64).to(dtype)
    outcomes = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        outcomes.append(gemm(values, ids, x, None))
    assert all(torch.equal(outcomes[0], other) for other in outcomes[1:])


BAD = {
    "x too wide": (lambda v, i: gemm(v, i, torch.zeros(3, 9), None), ValueError, r"got shapes \(4, 4\) and \(3, 9\)"),
    "x of another dtype": (lambda v, i: gemm(v, i, torch.zeros(3, 8).double(), None), TypeError, "float64.*got torch.float32"),
    "bias too long": (lambda v, i: gemm(v, i, torch.zeros(3, 8), torch.zeros(5)), ValueError, r"shape \(4,\), got \(5,\)"),
    "ids of another matrix": (lambda v, i: gemm(v, i[:3], torch.zeros(3, 8), None), ValueError, r"\(4, 1\).*got \(3, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(*prune(torch.randn(4, 8), "largest"))
