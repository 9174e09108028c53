"""What conversion costs: operands are derived from a pattern once."""

import pytest
from torch import nn

from sparse_ext import SparseLinear, sparsify_
from sparse_ext.ops import LAYOUTS

# Those that hold more than a copy of the pattern.
DERIVED = [name for name, layout in LAYOUTS.items() if len(layout.operands._fields) > len(layout.pattern.BUFFERS)]


def converted(layout, how):
    if how == "from_dense":
        return SparseLinear.from_dense(nn.Linear(16, 32), layout=layout, sparsity=0.9)
    return sparsify_(nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 64)), 0.9, layout=layout, init=how)[0]


@pytest.mark.parametrize("how", ["from_dense", "variance", "masked"])
@pytest.mark.parametrize("layout", DERIVED)
def test_operands_are_derived_once(layout, how, monkeypatch):
    """That of the transposed view is a sort by one thread. Of no entries there is nothing to sort."""
    kind, derived = LAYOUTS[layout], []
    prepare_ = kind.prepare_

    def counted(operands, pattern):
        derived.append(pattern.nnz)
        prepare_(operands, pattern)

    monkeypatch.setattr(kind, "prepare_", staticmethod(counted))
    layer = converted(layout, how)
    others = {"from_dense": 0, "variance": 1, "masked": 1}[how]  # the other layer's
    assert len([nnz for nnz in derived if nnz]) == 1 + others
    assert layer.nnz in derived


def test_what_is_derived():
    assert {"csr", "auto"} <= set(DERIVED)
