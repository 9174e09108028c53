"""The layout "masked": what lies outside of the mask is never used, and patterns are those of CSR."""

import pytest
import torch
from cases import Shape, pattern_of, problem

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS, CsrPattern, MaskedPattern
from sparse_ext.ops.masked import kernels

OPERATOR = "masked_select"  # one code for many kinds of devices, as all that is called here

SHAPES = (Shape(33, 70, 5, 0.4), Shape(8, 16, 5, 0.4), Shape(1, 1, 5, 1.0), Shape(3, 5, 5, 0.0))


@pytest.mark.parametrize("stray", [0.5, float("nan")], ids=str)
@pytest.mark.parametrize("by_torch", [True, False], ids=["torch", "kernels"])
def test_what_lies_outside_of_the_mask_is_never_used(stray, by_torch, monkeypatch):
    """As after `nn.init.normal_(layer.weight)`: it is no part of the matrix, in either direction."""
    monkeypatch.setattr(kernels, "_by_torch", lambda *_: by_torch)
    layer = SparseLinear(70, 33, sparsity=0.6, layout="masked")
    x = torch.randn(5, 70, requires_grad=True)
    results = []
    for _ in range(2):
        layer.weight.grad = x.grad = None
        y = layer(x)
        y.square().sum().backward()
        results.append([y, x.grad, layer.weight.grad, layer.dense_weight()])
        with torch.no_grad():
            layer.weight[layer.slots() < 0] = stray
    for clean, other in zip(*results, strict=True):
        assert torch.equal(other, clean)
    assert not results[0][2][layer.slots() < 0].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_patterns_are_those_of_csr(shape):
    """Drawn from the same seed, selected and regrown by the same scores, with the slot map that says so."""
    p = problem(shape)
    nnz = p.pattern.nnz
    masked, csr = (LAYOUTS[name].pattern for name in ("masked", "csr"))
    assert torch.equal(masked.random(shape.rows, shape.cols, nnz, 7).mask(), csr.random(shape.rows, shape.cols, nnz, 7).mask())
    pattern = masked.select(p.score, nnz)
    entries = csr.select(p.score, nnz)
    assert torch.equal(pattern.mask(), entries.mask())
    keep = LAYOUTS["masked"].pack(p.dense, pattern)
    free = shape.rows * shape.cols - nnz
    for grow in (p.score.flip(0), 11):
        drop = nnz // 3
        after, source = pattern.regrown(keep, grow, drop, min(drop, free))
        wanted, _ = entries.regrown(LAYOUTS["csr"].pack(p.dense, entries), grow, drop, min(drop, free))
        assert torch.equal(after.mask(), wanted.mask())
        stays = (pattern.mask() & after.mask()).view(-1)
        assert torch.equal(source, torch.where(stays, torch.arange(stays.numel()), -1))


def test_it_grows_more_than_it_drops():
    pattern = pattern_of(LAYOUTS["masked"], Shape(6, 8, 1, 0.5))
    after, source = pattern.regrown(torch.ones(48), torch.rand(6, 8), 3, 10)
    assert after.nnz == pattern.nnz + 7
    assert int((source >= 0).sum()) >= pattern.nnz - 3


def test_candidates_are_kept_of_a_stream():
    """As of CSR: nothing dense is kept, and what grows is the same."""
    layer = SparseLinear(12, 9, sparsity=0.5, layout="masked")
    sink = layer.pattern.growth_sink(layer.weight.detach(), lambda: layer.pattern, 5)
    dy, x = torch.randn(4, 9), torch.randn(4, 12)
    sink.add_(layer.product, [(dy, x)])
    streamed, _ = layer.pattern.regrown(layer.weight.detach(), sink.kept(), 5, 5)
    whole, _ = layer.pattern.regrown(layer.weight.detach(), dy.t() @ x, 5, 5)
    assert torch.equal(streamed.mask(), whole.mask())


def test_bits_behind_the_last_position_are_refused():
    pattern = MaskedPattern.from_mask(torch.ones(3, 3, dtype=torch.bool))
    pattern.check()
    pattern.mask_bits[1] |= 2
    with pytest.raises(ValueError, match="mask_bits: expected no bits behind 9 positions, got 3 in the last byte"):
        pattern.check()


def test_any_capacity_is_the_whole_matrix():
    for capacity in (None, 0.5, 1.0):
        assert SparseLinear(8, 4, sparsity=0.5, layout="masked", capacity=capacity).weight.shape == (32,)
    with pytest.raises(ValueError, match=r"capacity \(a density\) in \[0.5, 1\], got 0.4"):
        SparseLinear(8, 4, sparsity=0.5, layout="masked", capacity=0.4)
    assert CsrPattern.from_mask(SparseLinear(8, 4, sparsity=0.5, layout="masked").mask()).nnz == 16


@pytest.mark.parametrize(("cols", "rows"), [(0, 4), (4, 0), (0, 0)])
def test_a_matrix_without_positions(cols, rows):
    layer, x = SparseLinear(cols, rows, layout="masked"), torch.randn(3, cols, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, layer.bias.expand(3, rows))
    assert torch.equal(x.grad, torch.zeros(3, cols))
    assert layer.dense_weight().shape == (rows, cols)
