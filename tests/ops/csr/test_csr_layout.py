"""The layouts of CSR storage: by hand, the width of indices, and "auto", which multiplies densely where the table says so."""

import pytest
import torch
from by_hand import BIAS, DW, DX, WEIGHT, Y_BIAS, W, X
from cases import Shape, pattern_of, problem

from sparse_ext import count_flops
from sparse_ext.ops import LAYOUTS, CsrPattern, Linear, operands_of, prepared

OPERATOR = "csr_transpose"  # one code for many kinds of devices, as all that is called here

CSR = [name for name, layout in LAYOUTS.items() if layout.pattern is CsrPattern]


@pytest.fixture
def all_dense(monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.is_dense", lambda *_: True)


def kernels(name, pattern):
    """(kernels, product, operands) of a layout's linear product."""
    layout = LAYOUTS[name]
    return layout.products[Linear], Linear(pattern.rows, pattern.cols), operands_of(layout, pattern)


@pytest.mark.parametrize("layout", CSR)
def test_by_hand(layout, device, dtype):
    dense, x, bias = (torch.tensor(values, dtype=dtype, device=device) for values in (W, X, BIAS))
    pattern = CsrPattern.from_mask(dense != 0, capacity=4)
    linear, product, operands = kernels(layout, pattern)
    weight = LAYOUTS[layout].pack(dense, pattern)
    assert weight.tolist() == WEIGHT
    assert LAYOUTS[layout].unpack(weight, pattern).tolist() == W
    assert linear.forward(product, weight, None, operands, x, bias, False).tolist() == Y_BIAS
    assert linear.grad_input(product, weight, None, operands, x, x.shape).tolist() == DX
    assert linear.grad_weight(product, None, operands, x, x, None).tolist() == DW


@pytest.mark.parametrize("layout", CSR)
@pytest.mark.parametrize("cols", [65535, 65536, 65537])
def test_column_width_follows_the_matrix(layout, cols, device):
    """At 65536 columns the last index, 65535, is the largest of 16 bits; one more takes 32."""
    mask = torch.zeros(1, cols, dtype=torch.bool, device=device)
    mask[0, -1] = True
    pattern = CsrPattern.from_mask(mask)
    linear, product, operands = kernels(layout, pattern)
    assert operands.col_idx.dtype == (torch.uint16 if cols <= 65536 else torch.int32)
    assert operands.row_idx.dtype == torch.uint16
    x = torch.zeros(1, cols, device=device)
    x[0, -1] = 3.0
    weight = torch.full((1,), 2.0, device=device)
    assert linear.forward(product, weight, None, operands, x, None, False).tolist() == [[6.0]]
    assert linear.grad_input(product, weight, None, operands, x[:, -1:], x.shape)[0, -1] == 6.0
    assert linear.grad_weight(product, None, operands, x[:, -1:], x, None).tolist() == [9.0]


def test_operands_are_the_pattern_and_its_transpose(device):
    pattern = pattern_of(LAYOUTS["csr"], Shape(12, 18, 1, 0.3, spare=5), device)
    operands, turned = prepared(LAYOUTS["csr"], pattern), CsrPattern.from_mask(pattern.mask().t().contiguous())
    assert torch.equal(operands.row_ptr, pattern.row_ptr)
    assert torch.equal(operands.col_idx.int(), pattern.col_idx)
    assert torch.equal(operands.col_ptr, turned.row_ptr)
    nnz = pattern.nnz
    assert torch.equal(operands.row_idx[:nnz].int(), turned.col_idx)
    at = pattern.positions()[operands.slot[:nnz].long()]  # of every transposed entry, where its value is
    assert torch.equal(at // 18 + at % 18 * 12, turned.positions())


# ---- "auto": the dense product where the table says so ----------------------------------------------------------------


def test_auto_really_multiplies_densely(all_dense):
    p = problem(Shape(12, 20, 5, 0.3))
    linear, product, operands = kernels("auto", p.pattern)
    flops = {
        "forward": count_flops(lambda: linear.forward(product, p.weight, None, operands, p.x, p.bias, False)),
        "grad_input": count_flops(lambda: linear.grad_input(product, p.weight, None, operands, p.dy, p.x.shape)),
        "grad_weight": count_flops(lambda: linear.grad_weight(product, None, operands, p.dy, p.x, None)),
    }
    assert flops == dict.fromkeys(flops, 2 * 12 * 20 * 5)


def test_auto_multiplies_sparsely_where_no_row_says_otherwise(monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.table", {})
    p = problem(Shape(12, 20, 5, 0.3))
    linear, product, operands = kernels("auto", p.pattern)
    flops = count_flops(lambda: linear.forward(product, p.weight, None, operands, p.x, p.bias, False))
    assert flops == 2 * p.pattern.nnz * 5


def test_auto_asks_the_table_for_each_product(monkeypatch):
    """By the name of the product, and by its own tokens."""
    asked = []
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.is_dense", lambda *given: asked.append(given))
    p = problem(Shape(12, 20, 5, 0.3, spare=3))
    linear, product, operands = kernels("auto", p.pattern)
    linear.forward(product, p.weight, None, operands, p.x, None, False)
    linear.grad_input(product, p.weight, None, operands, p.dy, p.x.shape)
    linear.grad_weight(product, None, operands, p.dy, p.x, None)
    assert [(name, rows, cols, entries) for name, _, rows, cols, entries in asked] == [
        (name, 12, 20, p.pattern.nnz) for name in ("matmul", "matmul_t", "grad_weight")
    ]
    assert [tokens.shape[0] for _, tokens, *_ in asked] == [5, 5, 5]


def test_auto_refuses_what_csr_refuses(all_dense):
    p = problem(Shape(12, 20, 5, 0.3))
    linear, product, operands = kernels("auto", p.pattern)
    with pytest.raises(ValueError, match=r"expected x with 20 columns .*got 19"):
        linear.forward(product, p.weight, None, operands, p.x[:, 1:], None, False)
    with pytest.raises(TypeError, match=r"expected weight of dtype torch.float64 \(as x\), got torch.float32"):
        linear.forward(product, p.weight, None, operands, p.x.double(), None, False)
