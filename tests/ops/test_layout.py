"""Every layout of LAYOUTS: its products against those of the dense matrix, packing, operands, and the defaults of `Layout`."""

from dataclasses import replace

import pytest
import torch
from cases import LARGE, SMALL, TOLERANCE, Shape, has_layout, pattern_of, problem

from sparse_ext.ops import LAYOUTS, Layout, Linear, Rule, kernels_of, layout_named, multiply, operands_of, prepared, reference

SHAPE = Shape(12, 18, 7, 0.3, spare=5)
RULES = [(layout, rule) for layout, kind in LAYOUTS.items() for rule in kind.pattern.RULES]


def products(layout, pattern, weight, rule, p):
    """{name: what the layout's kernels give for the problem's tensors}."""
    product, operands = Linear(pattern.rows, pattern.cols), operands_of(layout, pattern)
    kernels = kernels_of(layout, product)
    return {
        "forward": kernels.forward(product, weight, rule, operands, p.x, None, False),
        "forward with bias": kernels.forward(product, weight, rule, operands, p.x, p.bias, False),
        "forward with relu": kernels.forward(product, weight, rule, operands, p.x, p.bias, True),
        "grad_input": kernels.grad_input(product, weight, rule, operands, p.dy, p.x.shape),
        "grad_weight": kernels.grad_weight(product, rule, operands, p.dy, p.x, None),
    }


def assert_products_of(matrix, layout, pattern, weight, rule, p):
    """They are those of the dense matrix; the weight gradient is asked for where the weight has a value."""
    x, dy, bias, matrix = (tensor.double() for tensor in (p.x, p.dy, p.bias, matrix))
    grad = dy.T @ x
    expected = {
        "forward": x @ matrix.T,
        "forward with bias": x @ matrix.T + bias,
        "forward with relu": (x @ matrix.T + bias).relu(),
        "grad_input": dy @ matrix,
        "grad_weight": Layout.pack.__func__(layout, grad, pattern) if rule is None else grad.view(-1),
    }
    for name, got in products(layout, pattern, weight, rule, p).items():
        want = expected[name].to(p.x.dtype)
        torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}", **TOLERANCE[p.x.dtype])


@pytest.mark.only("layouts with kernels", has_layout)
@pytest.mark.parametrize("shape", [*SMALL, LARGE[0]], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_of_a_packed_weight(layout, shape, device, dtype):
    layout, p = LAYOUTS[layout], problem(shape, dtype, device)
    pattern = pattern_of(layout, shape, device)
    weight = layout.pack(p.dense, pattern)
    assert weight.shape == (pattern.capacity,)
    assert_products_of(p.dense.masked_fill(~pattern.mask(), 0), layout, pattern, weight, None, p)


@pytest.mark.only("layouts with kernels", has_layout)
@pytest.mark.parametrize("shape", [SMALL[0], LARGE[0]], ids=str)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("layout", ["auto", "2:4"])
def test_products_are_the_same_whatever_the_table_says(layout, dense, shape, device, dtype, monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.is_dense", lambda *_: dense)
    test_products_of_a_packed_weight(layout, shape, device, dtype)


@pytest.mark.only("layouts with kernels", has_layout)
@pytest.mark.parametrize("shape", [SHAPE, Shape(9, 17, 33, 1.0), Shape(33, 70, 65, 0.1)], ids=str)
@pytest.mark.parametrize(("layout", "rule"), RULES)
def test_products_of_a_dense_weight(layout, rule, shape, device, dtype):
    """They take the chosen part of it, and the weight gradient reaches all of it."""
    layout, p = LAYOUTS[layout], problem(shape, dtype, device)
    nnz = round(shape.density * shape.rows * shape.cols)
    pattern = layout.pattern.select(p.score, nnz, rule=rule)
    rule = pattern.rule_for(p.dense, rule)
    matrix = p.dense.masked_fill(~pattern.mask(), 0)
    if rule.name == "soft":
        pattern = layout.pattern.select(p.dense, nnz, rule=rule.name)
        soft = reference.nm24_prune(p.dense.cpu(), "soft", None, rule.scale)
        matrix = reference.nm24_unpack(*soft, shape.cols).to(device)
    assert torch.equal(layout.matrix(p.dense.view(-1), pattern, rule), matrix)
    assert_products_of(matrix, layout, pattern, p.dense.view(-1), rule, p)


@pytest.mark.parametrize(("layout", "rule"), RULES)
def test_a_float32_weight_is_rounded_for_16_bit_tokens(layout, rule):
    layout, p = LAYOUTS[layout], problem(SHAPE, torch.bfloat16)
    pattern = layout.pattern.select(p.score, 60, rule=rule)
    rule, wide = Rule(rule), (p.score / 3).view(-1)  # more digits than bfloat16 has
    got, expected = (products(layout, pattern, weight, rule, p) for weight in (wide, wide.bfloat16()))
    for name in got if rule.name != "soft" else ("grad_weight",):
        assert torch.equal(got[name], expected[name]), name
    assert {tensor.dtype for tensor in got.values()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_multiply(layout):
    layout, p = LAYOUTS[layout], problem(SHAPE, torch.float64)
    pattern = pattern_of(layout, SHAPE)
    product, operands = Linear(SHAPE.rows, SHAPE.cols), operands_of(layout, pattern)
    inputs = [tensor.requires_grad_() for tensor in (p.x, layout.pack(p.dense, pattern), p.bias)]
    assert torch.autograd.gradcheck(lambda *inputs: multiply(layout, product, *inputs, operands), inputs)


# ---- values and operands ----------------------------------------------------------------------------------------------


@pytest.mark.only("layouts with kernels", lambda case: has_layout(case, SHAPE))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packing_and_back(layout, device, dtype):
    layout, p = LAYOUTS[layout], problem(SHAPE, dtype, device)
    pattern = pattern_of(layout, SHAPE, device)
    values = layout.pack(p.dense, pattern)
    matrix = p.dense.masked_fill(~pattern.mask(), 0)
    assert torch.equal(layout.unpack(values, pattern), matrix)
    assert torch.equal(layout.matrix(values, pattern, None), matrix)
    assert (values[pattern.positions() < 0] == 0).all()
    before = p.dense.clone()
    values.zero_()
    layout.matrix(values, pattern, None).fill_(1)
    assert torch.equal(p.dense, before)
    assert not values.any()


@pytest.mark.only("layouts with kernels", lambda case: has_layout(case, SHAPE))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_defaults_give_what_overrides_give(layout, device, dtype):
    """What an outsider's layout inherits."""
    layout, p = LAYOUTS[layout], problem(SHAPE, dtype, device)
    pattern = pattern_of(layout, SHAPE, device)
    pack, unpack, matrix = (getattr(Layout, name).__func__ for name in ("pack", "unpack", "matrix"))
    values = layout.pack(p.dense, pattern)
    assert torch.equal(pack(layout, p.dense, pattern), values)
    assert torch.equal(unpack(layout, values, pattern), layout.unpack(values, pattern))
    assert torch.equal(matrix(layout, values, pattern, None), layout.matrix(values, pattern, None))
    for rule in map(Rule, set(layout.pattern.RULES) - {"soft"}):  # which also changes the values
        weight = p.dense.view(-1)
        assert torch.equal(matrix(layout, weight, pattern, rule), layout.matrix(weight, pattern, rule))


@pytest.mark.parametrize("shape", [(11, 18), (12, 17), (18, 12), (216,)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packing_a_matrix_of_another_shape_raises(layout, shape):
    layout = LAYOUTS[layout]
    pattern = pattern_of(layout, SHAPE)
    for pack in (layout.pack, lambda *given: Layout.pack.__func__(layout, *given)):
        with pytest.raises(ValueError, match=r"expected dense of shape \(12, 18\), got \("):
            pack(torch.ones(shape), pattern)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_are_rewritten_in_place(layout, device):
    layout = LAYOUTS[layout]
    one, other = (pattern_of(layout, SHAPE, device, seed) for seed in (1, 2))
    operands = prepared(layout, one)
    addresses = [tensor.data_ptr() for tensor in operands]
    layout.prepare_(operands, other)
    assert [tensor.data_ptr() for tensor in operands] == addresses
    again = prepared(layout, other)
    assert all(torch.equal(a, b) for a, b in zip(operands, again, strict=True))
    for buffer in other.buffers.values():  # operands are copies
        buffer.zero_()
    assert all(torch.equal(a, b) for a, b in zip(operands, again, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepared_operands_are_never_taken_for_those_of_another_pattern(layout, device):
    layout, shape = LAYOUTS[layout], replace(SHAPE, cols=16)
    one, other = (pattern_of(layout, shape, device, seed) for seed in (1, 2))
    operands = prepared(layout, one)
    mirrored = layout.pattern.from_mask(one.mask().flip(1), one.capacity)  # as many entries in each row
    for another in (other, mirrored):
        if not torch.equal(one.mask(), another.mask()):
            assert not layout.is_prepared(operands, another)
    if layout.stem in ("csr", "dense"):  # where comparing costs less than preparing
        assert layout.is_prepared(operands, one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_are_kept_with_the_pattern(layout):
    pattern = pattern_of(LAYOUTS[layout], SHAPE)
    first = operands_of(LAYOUTS[layout], pattern)
    assert operands_of(LAYOUTS[layout], pattern) is first
    assert isinstance(first, LAYOUTS[layout].operands)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_on_meta_have_the_same_shapes(layout):
    layout = LAYOUTS[layout]
    pattern = pattern_of(layout, SHAPE)
    on_meta = layout.pattern.empty(SHAPE.rows, SHAPE.cols, pattern.capacity, "meta")
    operands, expected = prepared(layout, on_meta), prepared(layout, pattern)
    assert [(t.shape, t.dtype) for t in operands] == [(t.shape, t.dtype) for t in expected]
    assert all(t.is_meta for t in operands)


# ---- names ------------------------------------------------------------------------------------------------------------


def test_csr_and_auto_share_operands():
    pattern = pattern_of(LAYOUTS["csr"], SHAPE)
    assert operands_of(LAYOUTS["auto"], pattern) is operands_of(LAYOUTS["csr"], pattern)


def test_an_unknown_layout_is_told_the_known_ones():
    assert layout_named("dense") is LAYOUTS["dense"]
    with pytest.raises(ValueError, match=r"layout to be one of 'csr', 'auto', 'masked', '2:4', 'dense'.*, got 'coo'"):
        layout_named("coo")


def test_a_product_without_kernels_is_named():
    class Cubic:
        name = "cubic"

    with pytest.raises(ValueError, match="a layout with a cubic product, got 'csr'"):
        kernels_of(LAYOUTS["csr"], Cubic())
