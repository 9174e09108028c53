"""`CandidateSink`: the candidates of a gradient that nobody stores are those of the stored one."""

import pytest
import torch
from cases import Shape, problem

from sparse_ext.ops import Candidates, CandidateSink, GradientTotal, Linear, product
from sparse_ext.ops.regrow.candidates import score_dtype

OPERATOR = "regrow_candidates_"  # one code for many kinds of devices, as all that is called here

SHAPE = Shape(33, 70, 35, 0.2, spare=7)


def unrounded(p, dtype):
    """(dy, x) that are no multiples of anything: rounding shows."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in (p.dy, p.x))


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("positions", [1, 70, 1000, 1 << 20])
def test_it_keeps_the_candidates_of_the_whole_gradient(positions, pairs, device, dtype, monkeypatch):
    """To the bit: the tiles are those of the sum. Growth by either gives the same pattern."""
    monkeypatch.setitem(product.TILE, device.type, positions)
    p, linear = problem(SHAPE, dtype, device), Linear(SHAPE.rows, SHAPE.cols)
    gradient, size = [unrounded(p, dtype)] * pairs, p.pattern.nnz // 3
    total, sink = GradientTotal(p.weight, linear), CandidateSink(p.weight, lambda: p.pattern, size)
    total.add_(linear, gradient)
    sink.add_(linear, gradient)
    assert torch.equal(sink.candidates.at_entry[: p.pattern.nnz], total.total[p.mask])
    assert not sink.candidates.at_entry[p.pattern.nnz :].any()
    outside = total.total.masked_fill(p.mask, 0).flatten()
    chosen = outside.abs().argsort(descending=True, stable=True)[:size].sort().values
    assert torch.equal(sink.candidates.position, chosen)
    assert torch.equal(sink.candidates.score, outside[chosen])
    assert sink.candidates.count.tolist() == [size]
    (one, source), (other, other_source) = (p.pattern.regrown(p.weight, score, size, size)
                                            for score in (sink.candidates, total.total))  # fmt: skip
    assert torch.equal(source, other_source)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers.values(), other.buffers.values(), strict=True))
    assert sink.is_finite()


def sink_of(p, gradients):
    sink, linear = CandidateSink(p.weight, lambda: p.pattern, 20), Linear(SHAPE.rows, SHAPE.cols)
    for gradient in gradients:
        sink.add_(linear, [gradient])
    return sink


def test_a_second_accumulation_spoils_it():
    p = problem(SHAPE)
    for count in (2, 3):
        sink = sink_of(p, [(p.dy, p.x)] * count)
        assert sink.candidates is None
        assert not sink.is_finite()
    sink.clear_()  # what came was thrown away
    sink.add_(Linear(SHAPE.rows, SHAPE.cols), [(p.dy, p.x)])
    assert sink.is_finite()


def test_another_pattern_spoils_it_unless_nothing_came_yet():
    p = problem(SHAPE)
    sink = sink_of(p, [])
    sink.pattern_changed_()
    sink.add_(Linear(SHAPE.rows, SHAPE.cols), [(p.dy, p.x)])
    assert sink.is_finite()
    sink.pattern_changed_()
    assert sink.candidates is None
    sink.add_(Linear(SHAPE.rows, SHAPE.cols), [(p.dy, p.x)])
    assert not sink.is_finite()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["an entry", "elsewhere"])
def test_a_number_that_is_not_finite_shows(where, value):
    p = problem(SHAPE)
    row, col = (p.mask if where == "an entry" else ~p.mask).nonzero()[0].tolist()
    p.x[:, col], p.dy[0, row] = 1.0, value
    assert not sink_of(p, [(p.dy, p.x)]).is_finite()


@pytest.mark.parametrize(("dtype", "score"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_scores_have_the_dtype_of_sums(dtype, score):
    assert score_dtype(dtype) == score


def test_candidates_of_random_growth_have_no_score():
    empty = Candidates.empty(torch.zeros(3), 5, 4, None)
    assert (empty.at_entry, empty.score) == (None, None)
    assert [tensor.numel() for tensor in empty.tensors] == [4, 1]
    assert empty.view(torch.float32)[:2] == (0, 0)
