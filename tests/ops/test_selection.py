"""Selecting the largest of a matrix: what a stable sort would take, without a sort."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS, CsrPattern, Pattern
from sparse_ext.ops.pattern import largest

inf, nan = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("signed", [False, True])
def test_largest_is_what_a_stable_sort_takes(signed, dtype):
    score = torch.randn(200).round(decimals=1).to(dtype)  # with ties
    score[torch.randint(200, (30,))] = torch.tensor([nan, inf, -inf]).repeat(10).to(dtype)
    order = torch.argsort(score if signed else score.abs(), descending=True, stable=True)
    for count in range(201):
        expected = torch.zeros(200, dtype=torch.bool)
        expected[order[:count]] = True
        assert torch.equal(largest(score, count, signed), expected)


class NoSort(TorchDispatchMode):
    """Refuses to sort."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "sort" not in function.name(), function.name()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"ell"}))  # that sorts rows by itself
def test_dense_weights_are_pruned_without_a_sort(layout):
    dense, layer = torch.nn.Linear(12, 9), SparseLinear(12, 9, layout=layout)
    with NoSort():
        layer.load_state_dict(dense.state_dict())
        SparseLinear.from_dense(dense, layout=layout)
    assert int(layer.mask().sum()) == layer.nnz


def test_default_selection_and_regrowth_do_not_sort_the_positions():
    with NoSort():
        pattern = vars(Pattern)["select"].__func__(CsrPattern, torch.rand(9, 12), 20)
        Pattern.grown(pattern, pattern.mask(), torch.rand(9, 12, dtype=torch.float64), 5)
    assert pattern.nnz == 20
