"""The CPU products' tiles, panels and batches of token blocks: every way a matrix and its tokens can lie across them."""

import pytest
import torch
from cases import ARGUMENTS, TOLERANCE, Shape, problem

from sparse_ext.ops import OPS, reference
from sparse_ext.ops.csr import kernels

PRODUCTS = ("csr_spmm", "csr_spmm_t", "csr_sddmm")
ACROSS = (
    Shape(600, 610, 333, 0.5, spare=5),  # several panels and tiles; a batch of token blocks, and a part of another
    Shape(600, 610, 333, 0.1),  # one token block at a time
    Shape(300, 2100, 70, 0.02, skew=True),  # fewer tokens in registers, tiles that rows skip, and a full row
)


pytestmark = pytest.mark.only("the tiles of a CPU", lambda case: case.kind == "cpu")


@pytest.fixture(autouse=True)
def two_threads(same_start):
    torch.set_num_threads(2)


def dense_product(op, arguments):
    """What the twin gives for finite values. It would make every term, for a second and more at these sizes."""
    if op == "csr_sddmm":
        row_ptr, col_idx, _, dy, x = arguments
        return reference.csr_pack((dy.double().t() @ x.double()).to(x.dtype), row_ptr, col_idx)
    if op == "csr_spmm_t":
        weight, row_ptr, col_idx, col_ptr, _, _, dy = arguments
        return reference.densified_matmul_t(weight, row_ptr, col_idx, col_ptr.numel() - 1, dy)
    return reference.densified_matmul(*arguments)


def assert_agrees(op, arguments, dtype):
    torch.testing.assert_close(OPS[op](*arguments), dense_product(op, arguments), **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", ACROSS, ids=str)
@pytest.mark.parametrize("op", PRODUCTS)
def test_across_tiles(op, shape, device, dtype):
    for arguments in ARGUMENTS[op](problem(shape, dtype, device)):
        assert_agrees(op, arguments, dtype)


@pytest.mark.parametrize("shape", ACROSS[:2], ids=str)
@pytest.mark.parametrize("op", PRODUCTS)
def test_same_bits_for_any_thread_count(op, shape, device, dtype):
    p = problem(shape, dtype, device)
    for tensor in (p.weight, p.x, p.dy):  # multiples of 1/8 add up without rounding in any order
        tensor.mul_(torch.rand(tensor.shape).to(dtype))
    for arguments in ARGUMENTS[op](p):
        outcomes = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(OPS[op](*arguments))
        assert all(torch.equal(outcomes[0], outcome) for outcome in outcomes[1:])


@pytest.mark.only("the type that takes the fewest entries", lambda case: case.dtype == torch.float64)
def test_values_of_more_pages_than_a_cpu_keeps_addresses_of(device, dtype, monkeypatch):
    """From 8 MB on a transposed view reads its values by groups of columns."""
    monkeypatch.setattr(kernels, "FEW_REGISTERS", 0)
    for arguments in ARGUMENTS["csr_spmm_t"](problem(Shape(1100, 1100, 3, 0.97), dtype, device)):
        assert_agrees("csr_spmm_t", arguments, dtype)
