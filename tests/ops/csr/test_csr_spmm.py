"""The tiles of the product kernels: every way a matrix can lie across them, and long rows, which several warps share."""

from dataclasses import dataclass, replace

import pytest
import torch
from cases import ARGUMENTS, INDEX_DTYPES, Shape, assert_agrees, name_of, operands_with, problem

from sparse_ext.ops import OPS, CsrPattern

# On CUDA a block has 64 rows, or up to 256 where there are many; 64 or 128 tokens; and stages of up to 3 parts of 64 columns,
# or of 2 parts of 128 where the type has 16 bits. What does not fill a stage comes first.
ACROSS = (
    Shape(70, 264, 130, 0.3),  # a little more than a multiple of everything, rows of x aligned for 128-bit loads
    Shape(70, 267, 130, 0.3),  # and not aligned
    Shape(65, 129, 3, 1.0),  # full cells
    Shape(130, 264, 66, 0.05, spare=9, skew=True),  # a full row, and many that skip tiles
    Shape(64, 128, 128, 0.02),  # exactly one of everything, with empty rows
)
STAGES = (
    Shape(20, 40, 70, 0.5),  # less than a part
    Shape(20, 192, 70, 0.3),  # a stage of 64-column parts
    Shape(20, 256, 70, 0.3),  # a stage of 128-column parts, or a part and a stage
    Shape(20, 384, 70, 0.3),  # two stages, or a part and a stage
    Shape(20, 713, 70, 0.3, spare=11),  # two parts and three stages, and not aligned
    Shape(5, 1096, 33, 1.0),  # full cells
    Shape(70, 1096, 33, 0.01, skew=True),  # a full row, and many that skip stages
)
MANY = Shape(257, 264, 8193, 0.05, skew=True)  # enough tiles for the large ones
ON_CUDA = pytest.mark.only("on a CPU, tiles depend on the number of threads, not of tokens", lambda case: case.kind != "cpu")
# Tiles depend on a type's size, and the emulator is slow.
TWO_SIZES = pytest.mark.only("one type of each usual size", lambda case: case.dtype in (torch.float32, torch.bfloat16))
# What a block can have of shared memory: an emulated device has as much as sm_90, if not told otherwise.
SHARED_BYTES = {"sm_80": 166912, "sm_86": 101376}


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", ACROSS, ids=str)
@pytest.mark.parametrize("op", ["csr_spmm", "csr_spmm_t"])
def test_across_tiles(op, shape, index, device, dtype):
    for arguments in ARGUMENTS[op](problem(shape, dtype, device, index)):
        assert_agrees(op, arguments, dtype)


@pytest.mark.parametrize("shape", STAGES, ids=str)
def test_across_stages(shape, device, dtype):
    for arguments in ARGUMENTS["csr_spmm"](problem(shape, dtype, device)):
        assert_agrees("csr_spmm", arguments, dtype)


@pytest.mark.only("a device has the shared memory that it has", lambda case: case.kind == "emulated")
@pytest.mark.parametrize("shared_bytes", SHARED_BYTES.values(), ids=SHARED_BYTES)
@pytest.mark.parametrize("shape", STAGES, ids=str)
def test_stages_of_smaller_devices(shape, shared_bytes, device, dtype, monkeypatch):
    """Fewer parts to a stage; the same bits of rows that are not split."""
    p = problem(shape, dtype, device)
    for tensor in (p.weight, p.x):  # multiples of 1/8 add up without rounding in any order
        tensor.mul_(torch.rand(tensor.shape, device=device).to(dtype))
    arguments = ARGUMENTS["csr_spmm"](p)[1]
    largest = OPS["csr_spmm"](*arguments)
    monkeypatch.setenv("SPARSE_EXT_EMULATION_SHARED_BYTES", str(shared_bytes))
    assert_agrees("csr_spmm", arguments, dtype)
    assert shape.skew or torch.equal(OPS["csr_spmm"](*arguments), largest)


@ON_CUDA
@pytest.mark.only("the other types are slow tests", lambda case: case.dtype is torch.float32)
def test_many_tiles(device, dtype):
    """With bias and relu; the test after the next one has no relu."""
    assert_agrees("csr_spmm", ARGUMENTS["csr_spmm"](problem(MANY, dtype, device))[-1], dtype)


@pytest.mark.slow
def test_many_tiles_in_every_way(device, dtype):
    for arguments in ARGUMENTS["csr_spmm"](problem(MANY, dtype, device)):
        assert_agrees("csr_spmm", arguments, dtype)


@ON_CUDA
@TWO_SIZES
def test_same_bits_for_any_tile_size(device, dtype):
    """A token's sums do not depend on how many others there are."""
    p = problem(MANY, dtype, device)
    for tensor in (p.weight, p.x):  # multiples of 1/8 add up without rounding in any order
        tensor.mul_(torch.rand(tensor.shape, device=device).to(dtype))
    weight, row_ptr, col_idx, cols, x, bias = ARGUMENTS["csr_spmm"](p)[1]
    all_tokens = OPS["csr_spmm"](weight, row_ptr, col_idx, cols, x, bias)
    last_tokens = OPS["csr_spmm"](weight, row_ptr, col_idx, cols, x[-67:], bias)
    assert torch.equal(all_tokens[-67:], last_tokens)


# On CUDA a row is long that has entries in more than a quarter of the columns, and more than 8 times the average. Long rows are
# split, unless more than one in 32 is long.
@dataclass(frozen=True)
class Uneven:
    """A weight of rows with `usual` entries, and a few of other lengths: {row: length}."""

    why: str
    rows: int
    cols: int
    tokens: int
    usual: int
    others: dict

    def __str__(self) -> str:
        return self.why.replace(" ", "-")

    def problem(self, dtype, device, index=torch.int32):
        """Entries anywhere in their row; values that are no multiples of anything, so that the order of sums shows."""
        p = problem(Shape(self.rows, self.cols, self.tokens, 0.0), dtype, "cpu", index)
        lengths = torch.full((self.rows, 1), self.usual)
        for row, length in self.others.items():
            lengths[row] = length
        p.mask = torch.rand(self.rows, self.cols).argsort(1) < lengths
        return with_mask(p, dtype, device, index)


def with_mask(p, dtype, device, index=torch.int32, spare=0):
    """The problem with the pattern p.mask."""
    pattern = CsrPattern.from_mask(p.mask.to(device), int(p.mask.sum()) + spare)
    weight = torch.zeros(pattern.capacity)
    weight[: pattern.nnz] = torch.randn(p.mask.shape, generator=torch.Generator().manual_seed(0))[p.mask.cpu()]
    return replace(
        p, mask=p.mask.to(device), pattern=pattern, operands=operands_with(pattern, index), weight=weight.to(device, dtype),
        x=p.x.to(device), dy=p.dy.to(device), bias=p.bias.to(device),
    )  # fmt: skip


UNEVEN = (
    Uneven("a full row among short ones", 70, 267, 131, 3, {40: 267}),
    Uneven("eight times the average", 64, 264, 67, 8, {5: 100, 6: 204}),  # row 5 is not long, row 6 is
    Uneven("one entry more", 64, 264, 67, 8, {5: 101, 6: 204}),
    Uneven("a quarter of the columns", 64, 292, 67, 2, {1: 292, 63: 73}),  # row 63 is not long
    Uneven("one column less", 64, 291, 67, 2, {1: 291, 63: 73}),
    Uneven("many long rows in one block", 300, 200, 33, 1, {row: 191 + row % 9 for row in range(100, 109)}),
    Uneven("one too many", 300, 200, 33, 1, dict.fromkeys(range(290, 300), 200)),  # none is split
    Uneven("one row holds everything", 40, 300, 130, 0, {39: 300}),
    Uneven("everything in one of few rows", 31, 300, 5, 0, {30: 300}),  # none is split
    Uneven("more rows than one step lists", 2500, 70, 5, 1, dict.fromkeys((0, 7, 8, 2047, 2048, 2499), 60)),
)


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("uneven", UNEVEN, ids=str)
def test_long_rows(uneven, index, device, dtype):
    p = uneven.problem(dtype, device, index)
    for arguments in ARGUMENTS["csr_spmm"](p):
        assert_agrees("csr_spmm", arguments, dtype)


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
def test_arrow(index, device, dtype):
    """A full row, a full column and the diagonal: long in both views."""
    p = problem(Shape(130, 141, 70, 0.0), dtype, "cpu", index)
    p.mask[0], p.mask[:, 0] = True, True
    p.mask.fill_diagonal_(True)
    p = with_mask(p, dtype, device, index)
    for op in ("csr_spmm", "csr_spmm_t"):
        for arguments in ARGUMENTS[op](p):
            assert_agrees(op, arguments, dtype)


@TWO_SIZES
def test_a_long_row_of_32_bit_columns(device, dtype):
    """Multiples of 1/8: of other values, sums of so many differ by more than the tolerance."""
    p = Uneven("", 33, 65537, 3, 1, {4: 20000}).problem(dtype, device)
    p.weight.copy_((p.weight * 8).round() / 8)
    for arguments in ARGUMENTS["csr_spmm"](p):
        assert_agrees("csr_spmm", arguments, dtype)


MANY_LONG = Uneven("", 257, 136, 8193, 1, dict.fromkeys(range(31, 39), 130))  # more tiles of them than blocks take at once


@ON_CUDA
@TWO_SIZES
def test_same_bits_for_any_tile_size_and_capacity(device, dtype):
    p = MANY_LONG.problem(dtype, device)
    arguments = ARGUMENTS["csr_spmm"](p)[1]
    assert_agrees("csr_spmm", arguments, dtype)
    all_tokens = OPS["csr_spmm"](*arguments)
    fewer = with_mask(replace(p, x=p.x[-67:]), dtype, device, spare=4 * p.pattern.capacity)
    assert torch.equal(all_tokens[-67:], OPS["csr_spmm"](*ARGUMENTS["csr_spmm"](fewer)[1]))


@pytest.mark.parametrize("poisoned", ["x", "weight", "bias"])
def test_long_rows_keep_to_their_entries(poisoned, device, dtype):
    """Not finite is what has an entry there, and nothing else of a row that many warps share."""
    p = Uneven("", 70, 267, 35, 2, {0: 200, 69: 133}).problem(dtype, device)
    getattr(p, poisoned).view(-1)[0::601] = torch.tensor([float("nan")]).to(p.x)
    getattr(p, poisoned).view(-1)[69::701] = torch.tensor([float("inf")]).to(p.x)
    for arguments in ARGUMENTS["csr_spmm"](p):
        assert_agrees("csr_spmm", arguments, dtype)
