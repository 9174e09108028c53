"""The layout "dense": all positions, whatever is asked for; nothing in a checkpoint."""

import pytest
import torch
from cases import Shape, problem

from sparse_ext.ops import LAYOUTS, Linear, operands_of

SHAPE = Shape(6, 10, 7, 0.4)
Dense = LAYOUTS["dense"]


def test_every_way_to_make_one_stores_everything():
    kind, mask = Dense.pattern, torch.zeros(6, 10, dtype=torch.bool)
    patterns = (
        kind.empty(6, 10, 60, "cpu"), kind.of_buffers(6, 10, {}, "cpu"), kind.from_mask(mask), kind.random(6, 10, 3, 0),
        kind.select(torch.zeros(6, 10), 3), kind(6, 10).resized(7),
    )  # fmt: skip
    for pattern in patterns:
        assert pattern.nnz == pattern.capacity == 60
        assert pattern.mask().all()
        assert pattern.positions().tolist() == list(range(60))
        assert pattern.buffers == {}
        pattern.check()


def test_masks_are_made_where_the_pattern_says():
    assert Dense.pattern.empty(6, 10, 60, "meta").mask().is_meta
    assert Dense.pattern.from_mask(torch.zeros(6, 10, dtype=torch.bool, device="meta")).positions().is_meta


@pytest.mark.parametrize(("sparsity", "capacity"), [(0.5, None), (0.0, 0.5), (0.0, 2.0)])
def test_it_has_no_other_sizes(sparsity, capacity):
    assert Dense.pattern.sizes(6, 10, 0.0, 1.0) == Dense.pattern.sizes(6, 10, 0.0, None) == (60, 60, False)
    with pytest.raises(ValueError, match=r"expected sparsity 0 and capacity 1.0 \(or None\) for layout 'dense', got"):
        Dense.pattern.sizes(6, 10, sparsity, capacity)


def test_products_are_to_the_bit_those_of_pytorch():
    p, product, linear = problem(SHAPE), Linear(6, 10), Dense.products[Linear]
    pattern = Dense.pattern(6, 10)
    weight, operands = Dense.pack(p.dense, pattern), operands_of(Dense, pattern)
    assert torch.equal(
        linear.forward(product, weight, None, operands, p.x, p.bias, False),
        torch.nn.functional.linear(p.x, p.dense, p.bias),
    )
    assert torch.equal(linear.grad_input(product, weight, None, operands, p.dy, p.x.shape), p.dy @ p.dense)
    assert torch.equal(linear.grad_weight(product, None, operands, p.dy, p.x, None), (p.dy.t() @ p.x).flatten())
