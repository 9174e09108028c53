"""The gradient of a part of a weight is that part of the whole gradient, in every layout, by rows and by slots."""

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS, Linear, rows_part, slots_part

GROUPS = [1, 2, 8]


def layer_of(layout, groups, dtype):
    torch.manual_seed(0)
    if groups is None:
        dense, x = nn.Linear(12, 8), torch.randn(3, 5, 12)
    else:
        dense, x = nn.Conv2d(8, 16, (3, 2), padding=1, stride=(1, 2), groups=groups), torch.randn(2, 8, 6, 5)
    kind = sx.SparseLinear if groups is None else sx.SparseConv2d
    sparsity = {"dense": 0.0, "2:4": 0.5}.get(layout, 0.6)
    layer = kind.from_dense(dense, sparsity=sparsity, layout=layout, capacity=0.5 if layout in ("csr", "auto") else None)
    return layer.to(dtype), x.to(dtype).requires_grad_()


def gradients(layer, x):
    layer.zero_grad()
    x.grad = None
    layer(x).square().sum().backward()
    return layer.weight.grad, x.grad, layer.bias.grad


def close(actual, expected):
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("groups", [None, *GROUPS])
@pytest.mark.parametrize("by", ["element", "row"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", ["packed", "dense weight"])
def test_is_a_part_of_the_whole(layout, by, groups, stored):
    if layout == "2:4" and groups is not None:
        return  # 8 or fewer columns in a group
    layer, x = layer_of(layout, groups, torch.float64 if layout != "2:4" else torch.float32)
    if stored == "dense weight":
        if not layer.pattern.RULES:
            return
        layer.store_dense_()
    whole, dx, db = gradients(layer, x)
    slots, cols = layer.slots(), layer.product.cols
    trained = torch.rand(layer.capacity if by == "element" else layer.product.rows) < 0.4
    layer.train_part_(by, trained)
    part = trained if by == "element" else trained[slots.clamp(min=0) // cols]
    got = gradients(layer, x)
    for actual, expected in zip(got, (whole * (part & (slots >= 0)), dx, db), strict=True):
        close(actual, expected)
    layer.train_all_()
    close(gradients(layer, x)[0], whole)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "2:4"])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_whole_layer(layout, trains, awaited):
    layer, x = layer_of(layout, None, torch.float64)
    whole, dx, db = gradients(layer, x)
    layer.train_part_("layer", torch.tensor([trains]), awaited)
    got = gradients(layer, x)
    close(got[1], dx)
    if trains:
        close(got[::2], (whole, db))
    elif awaited:
        assert not got[0].any()
        assert not got[2].any()
    else:
        assert got[0] is None
        assert got[2] is None


def test_a_dtype_without_kernels():
    """Complex numbers: by the dense gradient."""
    product, positions = Linear(3, 4), torch.tensor([7, 2, 8])
    x, dy = torch.randn(5, 4, dtype=torch.complex64), torch.randn(5, 3, dtype=torch.complex64)
    part = slots_part(product, positions, torch.tensor([1, 0, 5]))
    from sparse_ext.ops.part import PARTS

    dw = PARTS[part.kind](product, 6, dy, x, *part.tensors)
    whole = product.dense_grad(dy, x).flatten()
    assert dw.tolist() == [whole[2].item(), whole[7].item(), 0, 0, 0, whole[8].item()]
    rows = PARTS["rows"](product, 12, dy, x, *rows_part(torch.tensor([0, 2])).tensors).view(3, 4)
    torch.testing.assert_close(rows, product.dense_grad(dy, x) * torch.tensor([[1], [0], [1]]))


def test_a_pattern_that_changes_drops_the_part():
    layer, x = layer_of("csr", None, torch.float64)
    layer.train_part_("element", torch.rand(layer.capacity) < 0.3)
    layer.set_matrix_(torch.randn(8, 12))
    assert gradients(layer, x)[0][layer.slots() >= 0].ne(0).all()
