"""Dense products of a matrix that is written panel by panel: any cut, any thread, and the memory that panels share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import ARGUMENTS, MASKED, TOLERANCE, TORCH_SUMS, Shape, assert_agrees, problem

from sparse_ext import SparseLinear
from sparse_ext.ops import OPS, MaskedPattern, panels
from sparse_ext.ops.boundary import launch
from sparse_ext.ops.csr import densified
from sparse_ext.ops.masked import kernels as masked

OPERATOR = "csr_unpack"  # one code for many kinds of devices, as all that is called here


@pytest.fixture
def all_dense(monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.is_dense", lambda *_: True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("panel_bytes", [1, 700, 5000, 1 << 20])
def test_a_dense_product_does_not_depend_on_its_panels(panel_bytes, dtype, monkeypatch):
    monkeypatch.setattr(panels, "PANEL_BYTES", panel_bytes)
    monkeypatch.setattr(masked, "_by_torch", lambda *_: True)
    for spare in (0, 7):
        p = problem(Shape(33, 70, 35, 0.2, spare=spare), dtype)
        for op in (*TORCH_SUMS, *MASKED):
            for arguments in ARGUMENTS[op](p):
                assert_agrees(op, arguments, dtype)


def test_a_panel_is_any_part_of_the_matrix(device, dtype):
    p = problem(Shape(33, 70, 1, 0.2, spare=7), dtype, device)
    index = p.pattern.row_ptr, p.operands.col_idx
    whole = OPS["csr_unpack"](p.weight, *index, 70)
    for rows, cols in ((33, (0, 70)), (33, (0, 1)), (33, (13, 40)), (20, (13, 70)), (7, (69, 70)), (33, (30, 30))):
        panel = torch.full((rows, cols[1] - cols[0]), torch.nan, dtype=dtype, device=device)
        densified._unpack(panel, p.weight, *index, first_row=33 - rows, first_col=cols[0])
        assert torch.equal(panel, whole[33 - rows :, slice(*cols)])


def test_a_panel_is_any_part_of_a_masked_matrix(device, dtype):
    """Bits of a row begin anywhere in a byte."""
    for cols in (70, 64, 5):
        p = problem(Shape(33, cols, 1, 0.4), dtype, device)
        bits, whole = MaskedPattern.from_mask(p.mask).mask_bits, p.dense.masked_fill(~p.mask, 0)
        for first_row, first_col, rows, width in ((0, 0, 33, cols), (2, 1, 9, cols - 1), (32, cols - 2, 1, 2), (5, 3, 0, 2)):
            panel = torch.full((rows, width), torch.nan, dtype=dtype, device=device)
            masked._select(panel, p.dense, bits, first_row, first_col)
            assert torch.equal(panel, whole[first_row : first_row + rows, first_col : first_col + width])
        matrix = p.dense.clone()
        masked._select(matrix[4:20], matrix, bits, first_row=4)
        assert torch.equal(matrix[4:20], whole[4:20])
        assert torch.equal(matrix[:4], p.dense[:4])
        assert torch.equal(matrix[20:], p.dense[20:])


def keep_all(monkeypatch):
    """However small workspaces are; none is there yet."""
    monkeypatch.setattr(launch, "KEPT", (1, 1 << 20))
    monkeypatch.setattr(launch, "_kept", threading.local())


def test_panels_serve_inference_and_training_in_turn(all_dense, monkeypatch):
    """Their memory stays, though it may have been made in inference mode."""
    keep_all(monkeypatch)
    layer, x = SparseLinear(20, 12, sparsity=0.5, layout="auto"), torch.randn(5, 20)
    with torch.inference_mode():
        y = layer(x)
    trained = layer(x)
    trained.sum().backward()
    with torch.inference_mode():
        assert torch.equal(layer(x), y)
    assert torch.equal(trained, y)


def test_panels_serve_dtypes_in_turn(monkeypatch):
    """The memory of an odd number of 16-bit elements, too."""
    keep_all(monkeypatch)
    for dtype, cols in ((torch.bfloat16, 21), (torch.float64, 4)):
        for arguments in ARGUMENTS["densified_matmul"](problem(Shape(3, cols, 5, 0.5), dtype)):
            assert_agrees("densified_matmul", arguments, dtype)


def test_panels_of_several_threads(monkeypatch):
    """Each has its own memory."""
    keep_all(monkeypatch)
    p = problem(Shape(64, 300, 40, 0.3))
    index = p.pattern.row_ptr, p.operands.col_idx, 300

    def products(sign):
        return [OPS["densified_matmul"](p.weight * sign, *index, p.x, None) for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        for sign, results in zip((1, -1, 1, -1), pool.map(products, (1, -1, 1, -1)), strict=True):
            for y in results:
                torch.testing.assert_close(y, sign * (p.x @ p.dense.where(p.mask, 0).T), **TOLERANCE[torch.float32])
