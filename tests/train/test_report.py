"""report(), state_dict() and count_flops() against numbers worked out by hand."""

import io

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import CHANGING, assert_same, chosen_layer, method_named, mlp, push, run

import sparse_ext as sx


def tiny():
    """2 x 4 with entries at 0, 1, 4, 5; every second step replaces the weakest."""
    layer = chosen_layer(torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]), capacity=0.625)
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.RigL(drop_fraction=0.25, update_interval=2, t_end=1.0, schedule="constant")
    return model, sx.Sparsifier(model, optimizer, method, total_steps=100)


def grow_at(model, sparsifier, position):
    for _ in range(2):
        gradient = torch.zeros(8)
        gradient[position] = 1.0
        push(model, gradient.view(2, 4))
        changed = sparsifier.step()
    assert changed


def test_report_by_hand():
    model, sparsifier = tiny()
    (layer,) = sparsifier.report().layers
    assert (layer.name, layer.shape, layer.nnz, layer.capacity, layer.density) == ("0", (2, 4), 4, 5, 0.5)
    assert (layer.replaced, layer.replaced_last, layer.coverage) == (0.0, 0.0, 0.5)

    grow_at(model, sparsifier, 7)  # 0 goes: {1, 4, 5, 7}
    grow_at(model, sparsifier, 7)  # 7 is the weakest and the best candidate: nothing is replaced
    (layer,) = sparsifier.report().layers
    assert (layer.replaced, layer.replaced_last, layer.coverage) == (0.25, 0.0, 5 / 8)

    grow_at(model, sparsifier, 0)  # 7 goes, 0 comes again: covered before
    grow_at(model, sparsifier, 2)  # 0 goes: {1, 2, 4, 5}
    report = sparsifier.report()
    (layer,) = report.layers
    assert (layer.replaced, layer.replaced_last, layer.coverage) == (0.75, 0.25, 6 / 8)
    assert (layer.nnz, layer.density, report.density, report.coverage) == (4, 0.5, 0.5, 6 / 8)
    assert (report.step, report.updates) == (8, 4)


def test_report_totals_weigh_layers_by_size():
    model = nn.Sequential(sx.SparseLinear(10, 4, sparsity=0.5), sx.SparseLinear(4, 40, sparsity=0.75))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = sx.Sparsifier(model, optimizer, sx.Static(), total_steps=10).report()
    assert [layer.nnz for layer in report.layers] == [20, 40]
    assert report.density == report.coverage == 60 / 200


def test_report_is_a_table():
    model, sparsifier = tiny()
    grow_at(model, sparsifier, 7)
    head, row, total = str(sparsifier.report()).splitlines()
    assert " ".join(head.split()) == "layer shape nnz density average replaced last update coverage layout"
    assert " ".join(row.split()) == "0 2 x 4 4 50.00% 50.00% 0.25 25.00% 62.50% csr (as asked for)"
    assert total == "step 2, 1 updates, density 50.00% (average over the run 50.00%), coverage 62.50%"


@pytest.mark.parametrize(("name", "layout"), CHANGING)
def test_state_dict_round_trip_through_a_file(name, layout):
    def build(seed):
        model = mlp(seed, layout=layout, method=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = method_named(name, update_interval=3, refresh_interval=3, t_end=1.0)
        return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=50, seed=seed)

    model, optimizer, sparsifier = build(0)
    run(model, optimizer, sparsifier, range(1, 12))
    file = io.BytesIO()
    torch.save(sparsifier.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    other_model, _, other = build(1)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    assert other.report() == sparsifier.report()
    again, first = other.state_dict(), sparsifier.state_dict()
    for key in ("coverage", "trained"):
        assert_same(again.pop(key), first.pop(key))
    torch.testing.assert_close(again.pop("signals"), first.pop("signals"), rtol=0, atol=0)
    assert again == first


def test_state_dict_is_a_snapshot():
    model, sparsifier = tiny()
    state = sparsifier.state_dict()
    coverage = {name: bits.clone() for name, bits in state["coverage"].items()}
    grow_at(model, sparsifier, 7)
    assert_same(state["coverage"], coverage)
    assert (state["step"], state["replaced"]) == (0, {"0": 0})


# ---- FLOPs ---------------------------------------------------------------------------------------------------------

TOKENS, IN, OUT, NNZ = 6, 10, 4, 12
PRODUCT, DENSE = 2 * TOKENS * NNZ, 2 * TOKENS * IN * OUT


def layer_and_input(requires_grad):
    layer = sx.SparseLinear(IN, OUT, sparsity=0.7)
    assert layer.nnz == NNZ
    return layer, torch.randn(2, 3, IN, requires_grad=requires_grad)


@pytest.mark.parametrize(("requires_grad", "products"), [(False, 1), (True, 2)], ids=["input", "hidden"])
def test_count_flops_of_a_sparse_layer(requires_grad, products):
    """Forward 2 tokens nnz; as much again for the weight gradient and, where it is needed, for the input's."""
    layer, x = layer_and_input(requires_grad)
    assert sx.count_flops(lambda: layer(x)) == PRODUCT
    y = layer(x)
    assert sx.count_flops(lambda: y.sum().backward()) == products * PRODUCT
    assert sx.count_flops(lambda: layer(x).sum().backward()) == (1 + products) * PRODUCT
    with torch.no_grad():
        assert sx.count_flops(lambda: layer(x)) == PRODUCT


def test_count_flops_counts_entries_and_not_the_capacity():
    layer = sx.SparseLinear(IN, OUT, sparsity=0.7, capacity=0.9)
    assert (layer.nnz, layer.capacity) == (NNZ, 36)
    x = torch.randn(TOKENS, IN, requires_grad=True)
    assert sx.count_flops(lambda: layer(x).sum().backward()) == 3 * PRODUCT


def test_count_flops_of_an_armed_step():
    """The dense gradient in full, besides the sparse one; nothing on the steps between."""
    layer, x = layer_and_input(True)
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=2, t_end=1.0), total_steps=10)
    counts = []
    for _ in range(5):
        counts.append(sx.count_flops(lambda: model(x).sum().backward()))
        optimizer.step()
        sparsifier.step()
    assert counts == [3 * PRODUCT, 3 * PRODUCT + DENSE] * 2 + [3 * PRODUCT]


def test_count_flops_of_a_whole_model():
    model = nn.Sequential(sx.SparseLinear(IN, OUT, sparsity=0.7), nn.ReLU(), nn.Linear(OUT, 5))
    x = torch.randn(TOKENS, IN)
    dense = 2 * TOKENS * OUT * 5
    assert sx.count_flops(lambda: model(x).sum().backward()) == 2 * PRODUCT + 3 * dense
    assert sx.count_flops(lambda: None) == 0


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], ids=lambda backend: backend.name)
def test_count_flops_of_attention(backend):
    """q k^T and its product with v; two products each in the backward, and fused attention computes q k^T again."""
    batch, heads, length, width = 2, 3, 16, 8
    q, k, v = (torch.randn(batch, heads, length, width, requires_grad=True) for _ in range(3))
    product = 2 * batch * heads * length * length * width
    products = 2 + 4 + (backend is SDPBackend.FLASH_ATTENTION)
    with sdpa_kernel(backend):
        attend = nn.functional.scaled_dot_product_attention
        assert sx.count_flops(lambda: attend(q, k, v).sum().backward()) == products * product
