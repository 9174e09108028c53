"""The tiles of csr_sddmm: every way a matrix and its tokens can lie across them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import ARGUMENTS, INDEX_DTYPES, Shape, assert_agrees, name_of, problem

from sparse_ext.ops import OPS

# On CUDA a block has 128 x 128 positions and 32 tokens at a time where a 16-bit type has enough entries for tensor cores. Else
# its tiles grow with the zeros, here from 32 x 32 on, and it has 32 tokens at a time, of double 16. On sm_90a two blocks have
# 256 x 256 positions, and 64 tokens four times, where rows and columns are multiples of 8.
ACROSS = (
    Shape(136, 264, 70, 0.3),  # a little more than a multiple of everything, rows of dy and x aligned for 128-bit loads
    Shape(132, 136, 33, 0.3),  # those of x alone
    Shape(136, 139, 33, 0.3, spare=9),  # those of dy alone
    Shape(128, 128, 64, 1.0),  # exactly one of everything, full
    Shape(65, 129, 15, 1.0),  # fewer tokens than one mma takes
    Shape(9, 17, 1570, 0.5, spare=300),  # three shares of tokens, the last one shorter
    Shape(260, 136, 17, 0.05, skew=True),  # full rows, and rows that skip tiles
    Shape(8, 16, 1600, 0.9, spare=9),  # three shares of tokens, of 9, 9 and 7 steps
    Shape(264, 520, 321, 0.1, spare=7),  # a little more than one cluster in rows, than two in columns, than five steps
    Shape(8, 2312, 64, 0.01, skew=True),  # two panels of tiles, the second with two columns
    # So sparse that every type takes CUDA cores:
    Shape(70, 2048, 37, 0.00002, spare=2),  # nearly nothing
    Shape(290, 803, 33, 0.015, spare=5),  # several tiles, larger ones, unaligned rows
    Shape(40, 200, 1060, 0.01),  # two shares
)


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", ACROSS, ids=str)
def test_across_tiles(shape, index, device, dtype):
    for arguments in ARGUMENTS["csr_sddmm"](problem(shape, dtype, device, index)):
        assert_agrees("csr_sddmm", arguments, dtype)


def with_mask(mask, p):
    row_ptr, col_idx = OPS["csr_from_mask"](mask, int(mask.sum()) + 3)
    return row_ptr, col_idx, mask.shape[1], p.dy, p.x


@pytest.mark.parametrize("shape", [Shape(260, 262, 35, 0.5), Shape(264, 264, 35, 0.5)], ids=str)
@pytest.mark.parametrize("full", [slice(0, 0), slice(130, 190)], ids=["few", "many"])
def test_tiles_without_entries(shape, full, device, dtype):
    """Entries in two of nine tiles only, in the corners of those; or in a third one, enough for tensor cores."""
    p = problem(shape, dtype, device)
    mask = torch.zeros(shape.rows, shape.cols, dtype=torch.bool, device=device)
    for corner in ((0, 0), (127, 127), (63, 64), (64, 63), (256, 256), (259, 261)):
        mask[corner] = True
    mask[full, full] = True
    assert_agrees("csr_sddmm", with_mask(mask, p), dtype)


@pytest.mark.parametrize("tokens", [35, 0])
def test_more_entries_than_a_tile_should_have(tokens, device, dtype):
    """A full corner of an empty matrix: the block takes rounds, of which the last is not full."""
    p = problem(Shape(1000, 1003, tokens, 0.0), dtype, device)
    mask = torch.zeros(1000, 1003, dtype=torch.bool, device=device)
    mask[3:68, 5:70] = True
    assert_agrees("csr_sddmm", with_mask(mask, p), dtype)


ONE_OF_EACH = (torch.float32, torch.bfloat16)  # CUDA cores' and tensor cores'


# Masks with enough entries for tensor cores to take a 16-bit type, and with so few that CUDA cores do.
PATTERNS = {"many": lambda mask: mask, "few": lambda mask: mask & torch.eye(*mask.shape, dtype=torch.bool, device=mask.device)}


@pytest.fixture(params=PATTERNS)
def pattern(request):
    return PATTERNS[request.param]


@pytest.mark.parametrize("shape", [Shape(140, 133, 35, 0.4), Shape(144, 136, 35, 0.4)], ids=str)
def test_non_finite_values_stay_in_their_row_and_column(shape, pattern, device, dtype):
    """Of a tile that is computed whole, beyond the edges of the matrix and of the tokens."""
    p = problem(shape, dtype, device)
    p.dy[[0, 34, 20], [0, 139, 129]] = torch.tensor([float("inf"), float("nan"), float("-inf")], device=device).to(dtype)
    p.x[[34, 0, 7], [132, 0, 64]] = torch.tensor([float("nan"), float("-inf"), float("inf")], device=device).to(dtype)
    assert_agrees("csr_sddmm", with_mask(pattern(p.mask), p), dtype)


@pytest.mark.parametrize("shape", [Shape(50, 58, 72, 0.9), Shape(48, 56, 72, 0.9)], ids=str)
def test_every_token_counts_once(shape, pattern, device, dtype):
    """Alone it gives its product: tokens lie in another order in registers, the same for both operands."""
    p = problem(shape, dtype, device)
    p.dy[:] = torch.arange(72, device=device).to(dtype)[:, None] + 1
    row_ptr, col_idx, *others = with_mask(pattern(p.mask), p)
    nnz, column = int(row_ptr[-1]), torch.arange(shape.cols, device=device)
    for first in (0, 72 - shape.cols):  # token first + c is alone in column c
        p.x.zero_()
        p.x[first + column, column] = 1
        got = OPS["csr_sddmm"](row_ptr, col_idx, *others)
        assert torch.equal(got[:nnz], (first + col_idx[:nnz] + 1).to(dtype))
        assert (got[nnz:] == 0).all()


@pytest.mark.parametrize("size", [50, 48])
def test_sums_are_kept_in_float32(size, pattern, device, dtype):
    """1 + 2 ** -11 does not fit 16 bits, but 1024 of those 2 ** -11 add up."""
    tokens = 1025
    x = torch.full((tokens, size), 2.0**-11, device=device, dtype=dtype)
    x[0] = 1.0
    dy = torch.ones(tokens, size, device=device, dtype=dtype)
    mask = pattern(torch.ones(size, size, dtype=torch.bool, device=device))
    row_ptr, col_idx = OPS["csr_from_mask"](mask, int(mask.sum()))
    assert (OPS["csr_sddmm"](row_ptr, col_idx, size, dy, x) == 1.5).all()


def test_first_call_of_a_thread(device, dtype):
    """As autograd's threads make it: on a GPU without a context so far."""
    (arguments,) = ARGUMENTS["csr_sddmm"](problem(Shape(64, 72, 65, 0.2), dtype, device))
    with ThreadPoolExecutor(1) as thread:
        got = thread.submit(OPS["csr_sddmm"], *arguments).result()
    assert torch.equal(got, OPS["csr_sddmm"](*arguments))


@pytest.mark.only("the emulator is slow", lambda case: case.kind != "emulated" or case.dtype in ONE_OF_EACH)
def test_same_bits_on_every_run(device, dtype, kind):
    """Of several tiles, clusters of blocks, and two shares of tokens."""
    (arguments,) = ARGUMENTS["csr_sddmm"](problem(Shape(264, 520, 1100, 0.1), dtype, device))
    first = OPS["csr_sddmm"](*arguments)
    for _ in range(1 if kind == "emulated" else 2):
        assert torch.equal(OPS["csr_sddmm"](*arguments), first)
