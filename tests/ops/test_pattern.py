"""Patterns of every layout: what holds for all, and the defaults of `Pattern` against what overrides them."""

import pytest
import torch
from cases import Shape, pattern_of, problem

from sparse_ext.ops import LAYOUTS, Candidates, CsrPattern, GradientTotal, Linear, MaskedPattern, Pattern, Rule, slot_map
from sparse_ext.ops.pattern import bits_at, count_bits, largest, taken
from sparse_ext.ops.rule import RULE_BYTES

OPERATOR = "regrow"  # one code for many kinds of devices, as all that is called here

SHAPES = (Shape(12, 18, 1, 0.3, spare=5), Shape(5, 7, 1, 0.4, spare=9), Shape(9, 16, 1, 0.5), Shape(3, 4, 1, 1.0))
inf, nan = float("inf"), float("nan")


def default(name, pattern, *arguments, **options):
    """What the base class makes of it, by its own method or class method."""
    method = vars(Pattern)[name]
    if isinstance(method, property):
        return method.fget(pattern)
    if isinstance(method, classmethod):
        return method.__func__(type(pattern), *arguments, **options)
    return method(pattern, *arguments, **options)


def same(one, other):
    """Two patterns: what is stored, but for what lies in unused slots."""
    return one.capacity == other.capacity and torch.equal(one.positions(), other.positions())


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


# ---- reading ----------------------------------------------------------------------------------------------------------


def test_all_ways_of_reading_agree(layout, shape, device):
    pattern = pattern_of(layout, shape, device)
    at = pattern.positions()
    assert at.dtype == torch.int64
    assert at.shape == (pattern.capacity,)
    used = at[at >= 0]
    assert used.unique().numel() == used.numel() == pattern.nnz
    mask = torch.zeros(shape.rows * shape.cols, dtype=torch.bool, device=device)
    mask[used] = True
    assert torch.equal(pattern.mask(), mask.view(shape.rows, shape.cols))
    bits = [sum(1 << i for i, one in enumerate(mask[first : first + 8].tolist()) if one) for first in range(0, len(mask), 8)]
    assert default("bits", pattern).tolist() == bits
    assert int(count_bits(pattern.bits())) == pattern.nnz
    pattern.check()


def test_defaults_read_what_overrides_read(layout, shape, device):
    pattern = pattern_of(layout, shape, device)
    assert default("nnz", pattern) == pattern.nnz
    assert torch.equal(default("mask", pattern), pattern.mask())
    assert torch.equal(default("bits", pattern), pattern.bits())
    default("check", pattern)


def test_buffers_hold_all_of_it(layout, shape):
    pattern = pattern_of(layout, shape)
    buffers = pattern.buffers
    assert tuple(buffers) == layout.pattern.BUFFERS
    again = layout.pattern.of_buffers(shape.rows, shape.cols, buffers, pattern.positions().device)
    assert same(again, pattern)
    empty = layout.pattern.empty(shape.rows, shape.cols, pattern.capacity, "meta")
    assert [(t.shape, t.dtype) for t in empty.buffers.values()] == [(t.shape, t.dtype) for t in buffers.values()]


def test_an_empty_pattern_is_valid(layout, shape, device):
    pattern = layout.pattern.empty(shape.rows, shape.cols, pattern_of(layout, shape).capacity, device)
    pattern.check()
    assert pattern.positions().device == device
    assert 0 <= pattern.nnz <= shape.rows * shape.cols


@pytest.mark.parametrize(
    ("positions", "why"),
    [([3, 3, -1], "different positions below 6, got"), ([3, 6, -1], "different positions below 6, got"), ([3, 0, 5], None)],
)
def test_the_default_check_reads_every_position(positions, why):
    class Listed(CsrPattern):
        check = Pattern.check

        def positions(self):
            return torch.tensor(positions)

    pattern = Listed(2, 3, torch.tensor([0, 2, 3]).int(), torch.zeros(3).int())
    if why is None:
        return pattern.check("layer.")
    with pytest.raises(ValueError, match=f"^layer.pattern: expected {why}"):
        pattern.check("layer.")


def test_the_default_check_compares_buffers_with_those_of_an_empty_pattern():
    pattern = CsrPattern(2, 3, torch.tensor([0, 2]).int(), torch.zeros(3).int())
    with pytest.raises(ValueError, match=r"^row_ptr: expected torch.int32 of shape \(3,\), got torch.int32 of \(2,\)"):
        default("check", pattern)


# ---- being made -------------------------------------------------------------------------------------------------------


def test_a_mask_and_back(layout, shape, device):
    pattern = pattern_of(layout, shape, device)
    assert same(layout.pattern.from_mask(pattern.mask(), pattern.capacity), pattern)
    longer = pattern.resized(pattern.capacity + 3)
    assert torch.equal(longer.mask(), pattern.mask())
    assert longer.capacity == pattern.empty(pattern.rows, pattern.cols, pattern.capacity + 3, "meta").capacity
    assert same(default("resized", pattern, pattern.capacity), pattern)


def test_random_patterns_have_the_count_and_follow_the_seed(layout, shape, device):
    sizes = layout.pattern.sizes(shape.rows, shape.cols, layout.pattern.SPARSITY, None)
    nothing = layout.pattern.empty(shape.rows, shape.cols, sizes.capacity, device)
    for random in (layout.pattern.random, lambda *given: default("random", nothing, *given)):
        one, again, other = (random(shape.rows, shape.cols, sizes.nnz, seed, device, sizes.capacity) for seed in (5, 5, 6))
        assert (one.nnz, one.capacity) == (sizes.nnz, nothing.capacity)
        assert same(one, again)
        assert same(one, other) == (sizes.nnz in (0, shape.rows * shape.cols))


SCORES = {
    "ties": lambda score: score.sign(),
    "zeros": lambda score: score * 0,
    "all apart": lambda score: torch.rand(score.shape, generator=torch.Generator().manual_seed(3)).to(score) - 0.5,
    "NaN": lambda score: score.masked_fill(score > 1, nan),
    "infinite": lambda score: score.masked_fill(score > 1, inf).masked_fill(score < -1, -inf),
}


@pytest.mark.parametrize("score", SCORES)
def test_selection_takes_the_largest(score, shape, device, dtype):
    """By the kernel and by sorting: the same, ties go to the lower position."""
    score = SCORES[score](problem(shape, dtype, device).score)
    nothing = CsrPattern.empty(shape.rows, shape.cols, 0, device)
    for count in (0, 1, score.numel() // 3, score.numel()):
        one, other = CsrPattern.select(score, count), default("select", nothing, score, count)
        assert same(one, other)
        expected = score.flatten().abs().nan_to_num(inf, inf).argsort(descending=True, stable=True)[:count]
        assert one.positions().tolist() == sorted(expected.tolist())
        assert CsrPattern.select(score, count, capacity=count + 2).capacity == count + 2


# ---- regrowth: the default sorts, CSR's does not ------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_default_regrowth_gives_what_kernels_give(score, shape, device, dtype):
    p = problem(shape, dtype, device)
    score, pattern, nnz = SCORES[score](p.score), p.pattern, p.pattern.nnz
    free = pattern.rows * pattern.cols - nnz
    for drop, count in ((0, 0), (nnz // 3, nnz // 3), (nnz, nnz), (nnz // 2, 0), (0, min(free, shape.spare))):
        (one, source), (other, other_source) = (
            pattern.regrown(p.weight, score, drop, count),
            default("regrown", pattern, p.weight, score, drop, count),
        )
        assert same(one, other)
        assert torch.equal(source.long(), other_source)
        assert one.nnz == nnz - drop + count


@pytest.mark.parametrize("weight", ["ties", "zeros", "NaN", "infinite"])
def test_default_regrowth_drops_what_kernels_drop(weight, shape, device, dtype):
    p = problem(shape, dtype, device)
    keep = SCORES[weight](p.weight)
    for drop in (0, 1, p.pattern.nnz // 2, p.pattern.nnz):
        one, other = p.pattern.regrown(keep, p.score, drop, drop), default("regrown", p.pattern, keep, p.score, drop, drop)
        assert same(one[0], other[0])
        assert torch.equal(one[1].long(), other[1])


@pytest.mark.parametrize("by", ["kernels", "default"])
def test_random_regrowth_keeps_the_largest_and_the_count(by, shape, device):
    p = problem(shape, torch.float32, device)
    nnz, drop = p.pattern.nnz, p.pattern.nnz // 2
    grown = {}
    for seed in (3, 4, -1):
        regrown = p.pattern.regrown if by == "kernels" else lambda *given: default("regrown", p.pattern, *given)
        new, source = regrown(p.weight, seed, drop, drop)
        assert new.nnz == nnz
        kept = p.weight[:nnz].abs().argsort(descending=True, stable=True)[: nnz - drop]
        assert torch.isin(kept, source.long()).all()
        assert torch.equal(source.long(), slot_map(p.pattern.positions(), new.positions()))
        grown[seed] = new.positions().tolist()
    assert nnz == shape.rows * shape.cols or grown[3] != grown[4]


def test_regrowth_by_what_a_growth_sink_keeps_is_regrowth_by_the_gradient(layout, device):
    p, pattern = problem(SHAPES[0], torch.float32, device), pattern_of(layout, SHAPES[0], device)
    keep = layout.pack(p.dense, pattern)
    sink = pattern.growth_sink(keep, lambda: pattern, 9)
    assert (sink is None) == (layout.pattern not in (CsrPattern, MaskedPattern))
    if sink is None:
        return
    product = Linear(pattern.rows, pattern.cols)
    sink.add_(product, [(p.dy, p.x)])
    assert isinstance(sink.kept(), Candidates)
    total = GradientTotal(keep, product)
    total.add_(product, [(p.dy, p.x)])
    (one, source), (other, same_source) = (pattern.regrown(keep, given.kept(), 9, 9) for given in (sink, total))
    assert same(one, other)
    assert torch.equal(source, same_source)


@pytest.mark.parametrize(("drop", "count"), [(-1, 0), (99, 0), (0, -1), (0, 99)])
@pytest.mark.parametrize("spare", [0, 9, 200])
@pytest.mark.parametrize("by", ["kernels", "default"])
def test_regrowth_of_other_counts_than_there_are_raises(by, spare, drop, count):
    p = problem(Shape(5, 7, 1, 0.4, spare=spare))
    regrown = p.pattern.regrown if by == "kernels" else lambda *given: default("regrown", p.pattern, *given)
    with pytest.raises(ValueError, match=r"expected (drop|grow) between 0 and"):
        regrown(p.weight, p.score, drop, count)


def test_regrowth_refuses_what_the_layout_cannot_do():
    with pytest.raises(ValueError, match="a pattern with positions to grow, got one that stores all"):
        LAYOUTS["dense"].pattern(2, 4).regrown(torch.zeros(8), 1, 0, 0)
    with pytest.raises(ValueError, match=r"as many positions to grow as to drop .* got drop 2, grow 1"):
        pattern_of(LAYOUTS["2:4"], SHAPES[0]).regrown(torch.zeros(120), 1, 2, 1)


# ---- slots, bits and rules ----------------------------------------------------------------------------------------------


def test_a_slot_map_finds_each_position_again():
    old, new = torch.tensor([4, -1, 9, 2, -1]), torch.tensor([2, 3, 4, -1, 9, 10])
    source = slot_map(old, new)
    assert source.tolist() == [3, -1, 0, -1, 2, -1]
    assert taken(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), source).tolist() == [4.0, 0.0, 1.0, 0.0, 3.0, 0.0]
    assert slot_map(old[:0], new).tolist() == [-1] * 6
    assert slot_map(old, new[:0]).tolist() == []
    assert taken(torch.zeros(0, dtype=torch.bfloat16), torch.tensor([-1, -1])).tolist() == [0.0, 0.0]


def test_taken_never_multiplies_what_is_not_there():
    assert taken(torch.tensor([nan, 1.0]), torch.tensor([-1, 1])).tolist() == [0.0, 1.0]


def test_bits_are_set_from_the_lowest_on():
    assert bits_at(torch.tensor([0, 3, 8, 15, 16]), 17).tolist() == [0b1001, 0b10000001, 1]
    assert bits_at(torch.tensor([], dtype=torch.int64), 0).tolist() == []
    assert int(count_bits(torch.tensor([255, 0, 7], dtype=torch.uint8))) == 11


def test_largest_is_stable_and_puts_nan_first():
    assert largest(torch.tensor([1.0, -2.0, 2.0, nan, -inf]), 3).tolist() == [False, True, False, True, True]
    assert largest(torch.tensor([1.0, -2.0, 2.0]), 2, signed=True).tolist() == [True, False, True]
    assert largest(torch.tensor([1.0]), 0).tolist() == [False]
    assert largest(torch.tensor([1.0, nan]), 2).tolist() == [True, True]


@pytest.mark.parametrize("rule", [Rule("largest"), Rule("soft", 1.1754943508222875e-38), Rule("transposable", -1.25)])
def test_a_rule_survives_a_checkpoint_to_the_bit(rule):
    text = rule.encoded("cpu")
    assert (text.dtype, text.shape) == (torch.uint8, (RULE_BYTES,))
    assert Rule.decoded("", text, ("soft", "largest", "transposable")) == rule


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (Rule("soft").encoded("cpu"), "one of largest, other and a finite scale, got 'soft 1.0'"),
        (Rule("largest", inf).encoded("cpu"), "and a finite scale, got 'largest inf'"),
        (torch.zeros(RULE_BYTES, dtype=torch.uint8), "and a finite scale, got"),
        (torch.full((RULE_BYTES,), 255, dtype=torch.uint8), "and a finite scale, got"),
        (torch.zeros(3, dtype=torch.uint8), r"torch.uint8 of shape \(32,\), got torch.uint8 of \(3,\)"),
        (torch.zeros(RULE_BYTES), r"got torch.float32 of \(32,\)"),
    ],
)
def test_text_that_is_no_rule_raises(text, why):
    with pytest.raises(ValueError, match=f"^layer.rule: expected .*{why}"):
        Rule.decoded("layer.", text, ("largest", "other"))
