"""The layout "2:4": its patterns, the rules of a dense weight, and which of the three products is sparse."""

import struct

import pytest
import torch
from cases import TOLERANCE, Shape, problem

from sparse_ext import count_flops
from sparse_ext.ops import LAYOUTS, Linear, Nm24Pattern, Rule, operands_of, reference

SHAPES = (Shape(8, 16, 8, 0.5), Shape(5, 7, 8, 0.5), Shape(7, 13, 8, 0.5), Shape(6, 10, 8, 0.5))


def selected(score, rule="largest"):
    return Nm24Pattern.select(score, 0, rule=rule)


# ---- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["largest", "transposable"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_and_mask_of_ragged_tiles(shape, rule, device):
    """Of a transposable tile at an edge, two positions of four may lie outside of the matrix."""
    pattern = selected(problem(shape, device=device).score, rule)
    mask = pattern.mask()
    assert pattern.nnz == int(mask.sum()) == int((pattern.positions() >= 0).sum())
    pattern.check("", Rule(rule))
    if rule == "largest":
        assert pattern.nnz == shape.rows * (shape.cols // 4 * 2 + min(shape.cols % 4, 2))


def test_only_transposable_tiles_pass_as_such():
    dense = torch.zeros(4, 4)
    dense[:, :2] = 1.0  # four of a column
    pattern = selected(dense)
    pattern.check("layer.", Rule("largest"))
    with pytest.raises(ValueError, match=r"^layer.ids: expected at most two of every four in a column .*, got 4"):
        pattern.check("layer.", Rule("transposable"))


def test_a_mask_with_fewer_is_filled_up_and_one_with_more_refused():
    mask = torch.tensor([[True, False, False, False, False, False, True, True]])
    pattern = Nm24Pattern.from_mask(mask)
    assert (pattern.mask() & mask).equal(mask)
    assert pattern.nnz == 4
    with pytest.raises(ValueError, match=r"at most two of every four neighbours of a row, got \[1, 1, 0, 1\] in row 1"):
        Nm24Pattern.from_mask(torch.tensor([[False] * 4, [True, True, False, True]]))


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (torch.full((2, 1), 0x44, dtype=torch.int32), r"torch.uint8 of shape \(2, 1\), got torch.int32 of \(2, 1\)"),
        (torch.full((2, 2), 0x44, dtype=torch.uint8), r"torch.uint8 of shape \(2, 1\), got torch.uint8 of \(2, 2\)"),
        (torch.full((2, 1), 0x45, dtype=torch.uint8), r"codes among \[4, 8, 9, 12, 13, 14\], got 5"),
    ],
)
def test_ids_that_are_no_pattern_are_refused(ids, why):
    with pytest.raises(ValueError, match=f"^layer.ids: expected {why}"):
        Nm24Pattern(2, 8, ids).check("layer.")


@pytest.mark.parametrize(
    ("cols", "sparsity", "capacity", "why"),
    [
        (8, 0.9, None, r"sparsity 0.5 \(or None\) for layout '2:4', got 0.9"),
        (3, 0.5, None, "at least 4 weights per output for layout '2:4', got 3"),
        (8, 0.5, 0.7, r"capacity 0.5 \(packed\) or 1.0 \(a dense weight\) for layout '2:4', got 0.7"),
    ],
)
def test_sizes_that_there_are_not(cols, sparsity, capacity, why):
    with pytest.raises(ValueError, match=f"^expected {why}"):
        Nm24Pattern.sizes(6, cols, sparsity, capacity)


def test_sizes_of_a_packed_and_of_a_dense_weight():
    assert Nm24Pattern.sizes(6, 10, 0.5, None) == (36, 36, False)
    assert Nm24Pattern.sizes(6, 9, 0.5, 0.5) == (30, 36, False)  # the last group has one position
    assert Nm24Pattern.sizes(6, 10, 0.5, 1.0) == (36, 36, True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_regrowth_keeps_two_of_four(shape, device):
    """Where the last group of a row has no alternative, fewer are dropped, and as many grown."""
    p = problem(shape, device=device)
    pattern = selected(p.dense)
    values = LAYOUTS["2:4"].pack(p.dense, pattern)
    for drop in (0, 3, pattern.nnz):
        new, source = pattern.regrown(values, p.score, drop, drop)
        assert new.nnz == pattern.nnz
        fixed = shape.rows * (shape.cols % 4) if shape.cols % 4 < 3 else 0
        assert int((source[new.positions() >= 0] < 0).sum()) <= min(drop, pattern.nnz - fixed)
        moved = (source >= 0) & (new.positions() >= 0)
        assert torch.equal(new.positions()[moved], pattern.positions()[source[moved].long()])


# ---- rules ------------------------------------------------------------------------------------------------------------


def test_the_scale_of_the_soft_rule_brings_it_nearest_to_the_weight(device):
    dense = problem(SHAPES[2], device=device).dense
    rule = selected(dense).rule_for(dense, "soft")
    assert rule.scale == struct.unpack("f", struct.pack("f", rule.scale))[0]  # a float32

    def distance(scale):
        soft = reference.nm24_unpack(*reference.nm24_prune(dense.cpu(), "soft", None, scale), SHAPES[2].cols)
        return (soft.double() - dense.cpu()).square().sum()

    assert distance(rule.scale) <= min(distance(rule.scale * factor) for factor in (0.99, 1.01))


def test_the_scale_of_the_soft_rule_is_1_where_there_is_nothing_to_scale():
    dense = torch.ones(4, 8)  # the third largest takes all of it
    assert selected(dense).rule_for(dense, "soft") == Rule("soft", 1.0)
    assert selected(dense).rule_for(dense, "transposable") == Rule("transposable")


@pytest.mark.parametrize(("number", "name"), [(0, "largest"), (1, "transposable"), (2, "soft")])
def test_version_1_of_a_checkpoint_numbered_the_rules(number, name):
    (bits,) = struct.unpack("i", struct.pack("f", 0.75))
    ids, pruning = torch.zeros(4, 1, dtype=torch.uint8), torch.tensor([number, bits], dtype=torch.int32)
    dense = {"weight": torch.zeros(32), "ids": ids, "pruning": pruning}
    upgraded = Nm24Pattern.upgraded("", 4, 8, dense)
    assert set(upgraded) == {"weight", "ids", "rule"}
    assert Rule.decoded("", upgraded["rule"], Nm24Pattern.RULES) == Rule(name, 0.75)
    packed = Nm24Pattern.upgraded("", 4, 8, {**dense, "weight": torch.zeros(16)})
    assert set(packed) == {"weight", "ids"}
    assert "pruning" in dense
    assert Nm24Pattern.upgraded("", 4, 8, upgraded) is upgraded


def test_version_1_of_a_checkpoint_knew_a_dense_phase():
    entries = {"weight": torch.zeros(32), "ids": torch.zeros(4, 1).byte(), "pruning": torch.tensor([3, 0]).int()}
    assert set(Nm24Pattern.upgraded("", 4, 8, entries)) == {"weight"}


@pytest.mark.parametrize("pruning", [[4, 0], [-1, 0], [0, 2**40], [0], [0.5, 0.5]])
def test_version_1_of_a_checkpoint_that_is_corrupt_is_refused(pruning):
    entries = {"weight": torch.zeros(32), "ids": torch.zeros(4, 1).byte(), "pruning": torch.tensor(pruning)}
    with pytest.raises(ValueError, match=r"^layer.pruning: expected"):
        Nm24Pattern.upgraded("layer.", 4, 8, entries)


# ---- products ---------------------------------------------------------------------------------------------------------

HALF, WHOLE = 8 * 16 * 8, 2 * 8 * 16 * 8  # FLOPs of a sparse and of a dense product of SHAPES[0]


@pytest.mark.parametrize(("rule", "grad_input"), [("largest", WHOLE), ("transposable", HALF)])
def test_which_products_are_sparse(rule, grad_input, monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.auto.POLICY.table", {})
    p, layout = problem(SHAPES[0]), LAYOUTS["2:4"]
    pattern = selected(p.dense, rule)
    product, linear, operands = Linear(8, 16), layout.products[Linear], operands_of(layout, pattern)
    weight, rng = p.dense.view(-1), torch.zeros(2, dtype=torch.int64)
    flops = {
        "forward": count_flops(lambda: linear.forward(product, weight, Rule(rule), operands, p.x, None, False)),
        "grad_input": count_flops(lambda: linear.grad_input(product, weight, Rule(rule), operands, p.dy, p.x.shape)),
        "grad_weight": count_flops(lambda: linear.grad_weight(product, Rule(rule), operands, p.dy, p.x, None)),
        "sampled": count_flops(lambda: linear.grad_weight(product, Rule(rule), operands, p.dy, p.x, rng)),
    }
    assert flops == {"forward": HALF, "grad_input": grad_input, "grad_weight": WHOLE, "sampled": HALF}
    assert rng.tolist() == [0, 1]


@pytest.mark.only("tensor cores multiply 16-bit types", lambda case: case.kind == "cpu" or case.dtype.itemsize == 2)
def test_a_sampled_weight_gradient_is_that_of_the_sampled_output_gradient(device, dtype):
    """At the pattern for a packed weight, everywhere for a dense one."""
    p, layout = problem(SHAPES[0], dtype, device), LAYOUTS["2:4"]
    pattern, product, linear = selected(p.dense), Linear(8, 16), layout.products[Linear]
    operands, rng = operands_of(layout, pattern), torch.tensor([7, 0], device=device)
    dense = linear.grad_weight(product, Rule("largest"), operands, p.dy, p.x, rng.clone())
    packed = linear.grad_weight(product, None, operands, p.dy, p.x, rng.clone())
    assert torch.equal(packed, layout.pack(dense.view(8, 16), pattern))
    values, ids = reference.nm24_mvue(p.dy.cpu(), rng.cpu().clone())
    sampled = reference.nm24_unpack(values, ids, 8).t().contiguous()
    expected = linear.grad_weight(product, Rule("largest"), operands, sampled.to(device), p.x, None)
    torch.testing.assert_close(dense, expected, **TOLERANCE[dtype])


def test_weights_that_do_not_belong_to_the_product_are_refused():
    p, layout = problem(SHAPES[0]), LAYOUTS["2:4"]
    pattern = selected(p.dense)
    linear, operands = layout.products[Linear], operands_of(layout, pattern)
    with pytest.raises(ValueError, match=r"nm24_linear: expected weight of shape \(64,\), got \(63,\)"):
        linear.forward(Linear(8, 16), torch.zeros(63), None, operands, p.x, None, False)
    with pytest.raises(ValueError, match=r"nm24_linear: expected weight of shape \(128,\), got \(64,\)"):
        linear.forward(Linear(8, 16), torch.zeros(64), Rule("largest"), operands, p.x, None, False)
    with pytest.raises(TypeError, match=r"expected x of dtype torch.float64 \(as the weight\), got torch.float32"):
        linear.forward(Linear(8, 16), torch.zeros(128).double(), Rule("largest"), operands, p.x, None, False)
