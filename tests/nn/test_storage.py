"""How a new layer is stored: by layout="auto" as was measured to be faster, with the reason, and otherwise as asked for."""

import pytest
import torch
from torch import nn

from sparse_ext import SparseConv2d, SparseLinear, Sparsifier, Static, sparsify_
from sparse_ext.ops import LAYOUTS, auto
from sparse_ext.ops.csr import auto_conv

WAYS = {
    "constructor": lambda layout, sparsity: SparseLinear(16, 8, sparsity=sparsity, layout=layout),
    "from_dense": lambda layout, sparsity: SparseLinear.from_dense(nn.Linear(16, 8), sparsity=sparsity, layout=layout),
    "from a mask": lambda layout, sparsity: SparseLinear.from_dense(
        nn.Linear(16, 8), mask=torch.arange(128).view(8, 16) >= 128 * sparsity, layout=layout
    ),
    "sparsify_": lambda layout, sparsity: sparsify_(nn.Sequential(nn.Linear(16, 8)), sparsity, layout=layout)[0],
}


@pytest.fixture
def from_60_percent(monkeypatch):
    """Measured: sparse storage is faster from 60 % zeros on."""
    key = (auto.device_name(torch.device("cpu")), torch.float32, auto.STORAGE)
    monkeypatch.setattr(auto.POLICY, "table", {key: (auto.Row(16, 128, 0, 0.4),)})


@pytest.mark.parametrize(("sparsity", "layout", "capacity"), [(0.5, "masked", 128), (0.75, "auto", 32)])
@pytest.mark.parametrize("way", WAYS)
def test_auto_stores_what_was_measured_to_be_faster(way, sparsity, layout, capacity, from_60_percent):
    layer = WAYS[way]("auto", sparsity)
    assert (layer.layout, layer.capacity, layer.nnz) == (layout, capacity, round(128 * (1 - sparsity)))
    assert layer.layout_reason.startswith(f"{sparsity:.0%} zeros; sparse storage is faster from 60% on, as measured on cpu")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (row,) = Sparsifier(nn.Sequential(layer), optimizer, Static(), total_steps=1).report().layers
    assert (row.layout, row.reason) == (layout, layer.layout_reason)


@pytest.mark.parametrize(("kernel", "layout"), [(3, "masked"), (1, "auto")])
def test_a_convolution_is_at_full_length_where_all_its_products_are_dense(kernel, layout, monkeypatch):
    """Measured: all products of 3 x 3 kernels are faster sparse from 60 % zeros on; one of 1 x 1 kernels, from 20 %."""
    device = auto.device_name(torch.device("cpu"))
    rows = {3: [auto.Row(16, 144, 0, 0.4)] * 3, 1: [auto.Row(16, 16, 0, density) for density in (0.4, 0.8, 0.4)]}
    names = {k: auto_conv.all_in_table((k, k)) for k in rows}
    found = {(device, torch.float32, name): (row,) for k in rows for name, row in zip(names[k], rows[k], strict=True)}
    monkeypatch.setattr(auto.POLICY, "table", found)
    layer = SparseConv2d(4, 4, kernel, sparsity=0.5, layout="auto")
    assert layer.layout == layout
    assert layer.layout_reason.startswith(f"50% zeros; sparse storage is faster from {60 if kernel == 3 else 20}% on")
    assert layer(torch.ones(1, 4, 3, 3)).shape[1] == 4


@pytest.mark.parametrize("layout", [name for name, kind in LAYOUTS.items() if kind.pattern.VARIABLE and name != "auto"])
def test_other_layouts_are_as_asked_for(layout, from_60_percent):
    layer = SparseLinear(16, 8, sparsity=0.5, layout=layout)
    assert (layer.layout, layer.layout_reason) == (layout, "as asked for")


def test_a_layer_that_changes_says_so():
    layer = SparseLinear(16, 8, layout="2:4")
    layer.switch_("csr")
    assert layer.layout_reason == "changed after the layer was made"


def test_what_is_too_large_for_full_length_stays_sparse(from_60_percent):
    layer = SparseLinear(1 << 16, 1 << 16, sparsity=0.51, layout="auto", device="meta")
    assert layer.layout == "auto"
    assert layer.layout_reason.endswith("positions: too many for full length")
