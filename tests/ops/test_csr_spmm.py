"""The tiles of the product kernels: every way a matrix can lie across them."""

import pytest
import torch
from cases import ARGUMENTS, INDEX_DTYPES, Shape, assert_agrees, name_of, problem

from sparse_ext.ops import OPS

# On CUDA a block has 64 rows, or up to 256 where there are many; 64 or 128 tokens; and 64 or 128 columns at a time.
ACROSS = (
    Shape(70, 264, 130, 0.3),  # a little more than a multiple of everything, rows of x aligned for 128-bit loads
    Shape(70, 267, 130, 0.3),  # and not aligned
    Shape(65, 129, 3, 1.0),  # full cells
    Shape(130, 264, 66, 0.05, spare=9, skew=True),  # a full row, and many that skip tiles
    Shape(64, 128, 128, 0.02),  # exactly one of everything, with empty rows
)
MANY = Shape(257, 136, 8193, 0.05, skew=True)  # enough tiles for the large ones


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", ACROSS, ids=str)
@pytest.mark.parametrize("op", ["csr_spmm", "csr_spmm_t"])
def test_across_tiles(op, shape, index, device, dtype):
    for arguments in ARGUMENTS[op](problem(shape, dtype, device, index)):
        assert_agrees(op, arguments, dtype)


def test_many_tiles(device, dtype):
    for arguments in ARGUMENTS["csr_spmm"](problem(MANY, dtype, device)):
        assert_agrees("csr_spmm", arguments, dtype)


def test_same_bits_for_any_tile_size(device, dtype, kind):
    """A token's sums do not depend on how many others there are."""
    if kind == "cpu":
        pytest.skip("on a CPU, tiles depend on the number of threads, not of tokens")
    p = problem(MANY, dtype, device)
    for tensor in (p.weight, p.x):  # multiples of 1/8 add up without rounding in any order
        tensor.mul_(torch.rand(tensor.shape, device=device).to(dtype))
    weight, row_ptr, col_idx, cols, x, bias = ARGUMENTS["csr_spmm"](p)[1]
    all_tokens = OPS["csr_spmm"](weight, row_ptr, col_idx, cols, x, bias)
    last_tokens = OPS["csr_spmm"](weight, row_ptr, col_idx, cols, x[-67:], bias)
    assert torch.equal(all_tokens[-67:], last_tokens)
