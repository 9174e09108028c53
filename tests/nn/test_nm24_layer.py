"""Layers of layout "2:4", packed and with a dense weight: construction, values, checkpoints, autocast, conversion."""

import re

import pytest
import torch
from cases import TOLERANCE
from nm24 import ALL, CAPACITIES, RULES, X, made
from torch import nn
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS

import sparse_ext as sx
from sparse_ext import SparseLinear
from sparse_ext import functional as SF
from sparse_ext.ops import Nm24Pattern, Rule, auto, reference
from sparse_ext.ops.nm24.auto import FORWARD, GRAD_INPUT

# ---- what a layer is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "length"), [(None, 9 * 8), (0.5, 9 * 8), (1.0, 9 * 13)])
def test_sizes(capacity, length):
    layer = made(capacity)
    assert layer.weight.shape == (length,)
    assert layer.nnz == int(layer.mask().sum()) == 9 * 7  # of the last column's own four, one
    assert layer.density == 63 / 117
    assert {name: (tuple(t.shape), t.dtype) for name, t in layer.state_dict().items()} == {
        "weight": ((length,), torch.float32),
        "bias": ((9,), torch.float32),
        "ids": ((9, 2), torch.uint8),
    } | ({"rule": ((32,), torch.uint8)} if capacity == 1.0 else {})
    assert "layout='2:4'" in repr(layer)


@pytest.mark.parametrize("capacity", CAPACITIES.values())
def test_fresh_values_have_the_variance_of_the_fan_in(capacity):
    layer = made(capacity, cols=402)
    weights = 402 if capacity == 1.0 else layer.nnz / 9
    bound = weights**-0.5
    values = layer.weight.detach()[layer.weight != 0]
    assert 0.95 * bound < values.abs().max() <= bound
    assert values.numel() == (402 * 9 if capacity == 1.0 else layer.nnz)
    assert layer.dense_weight().count_nonzero() == layer.nnz


@pytest.mark.parametrize("kind", ALL)
def test_products_are_those_of_the_effective_weight(kind):
    layer = ALL[kind](dtype=torch.float64)
    dense, mask, x = layer.dense_weight(), layer.mask(), X.double().requires_grad_()
    assert not dense[~mask].any()
    assert layer.nnz == int(mask.sum())
    y = layer(x)
    torch.testing.assert_close(y, X.double() @ dense.T + layer.bias)
    dy = torch.randn_like(y)
    y.backward(dy)
    torch.testing.assert_close(x.grad, dy @ dense)
    dw = dy.T @ X.double()
    if kind == "packed":
        values, ids = layer.weight.grad.view(9, 8), layer.ids
        torch.testing.assert_close(reference.nm24_unpack(values, ids, 13), dw * mask)
        assert not values[:, -1].any()  # no such column
    else:
        torch.testing.assert_close(layer.weight.grad.view(9, 13), dw)


def test_what_products_take_of_a_dense_weight():
    weight = torch.tensor([[4.0, -3.0, 2.0, 1.0], [1.0, 2.0, 3.0, -4.0], [4.0, 3.0, 0.0, 0.0], [5.0, 4.0, 0.0, 1.0]])
    dense = nn.Linear(4, 4, bias=False)
    dense.weight.data.copy_(weight)
    layer = SparseLinear.from_dense(dense, layout="2:4", capacity=1.0)
    taken = {}
    for rule in RULES:
        layer.choose_(rule)
        taken[rule] = layer.dense_weight()
        assert torch.equal(layer.weight.view(4, 4), weight)
    assert taken["largest"].tolist() == [[4, -3, 0, 0], [0, 0, 3, -4], [4, 3, 0, 0], [5, 4, 0, 0]]
    # Columns hold two each: of rows 0, 2, 3 two keep their first pair, and row 0 loses least.
    assert taken["transposable"].tolist() == [[0, 0, 2, 1], [0, 0, 3, -4], [4, 3, 0, 0], [5, 4, 0, 0]]
    soft = torch.tensor([[2.0, -1, 0, 0], [0, 0, 1, -2], [4, 3, 0, 0], [4, 3, 0, 0]])
    scale = float((weight * soft).sum() / soft.square().sum())
    torch.testing.assert_close(taken["soft"], soft * scale)
    layer.switch_("dense")
    assert torch.equal(layer.dense_weight(), weight)


# ---- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", CAPACITIES.values())
def test_from_dense_keeps_the_two_largest(capacity):
    dense = nn.Linear(13, 9)
    layer = SparseLinear.from_dense(dense, layout="2:4", capacity=capacity)
    _, ids = reference.nm24_prune(dense.weight.detach(), "largest")
    assert torch.equal(layer.ids, ids)
    assert torch.equal(layer.dense_weight(), dense.weight * layer.mask())
    assert torch.equal(layer.to_dense().weight, layer.dense_weight())
    if capacity == 1.0:
        assert torch.equal(layer.weight.view(9, 13), dense.weight)


@pytest.mark.parametrize("capacity", CAPACITIES.values())
def test_from_a_mask_with_fewer_than_two(capacity):
    dense, mask = nn.Linear(8, 3), torch.zeros(3, 8, dtype=torch.bool)
    mask[0, 1] = mask[1, 6] = mask[1, 7] = True
    layer = SparseLinear.from_dense(dense, mask=mask, layout="2:4", capacity=capacity)
    assert (layer.mask() & mask).sum() == 3
    assert layer.nnz == 12
    assert torch.equal(layer.dense_weight(), dense.weight * mask)


def test_a_mask_with_more_than_two_is_refused():
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[1, 4:7] = True
    with pytest.raises(ValueError, match=re.escape("at most two of every four neighbours of a row, got [1, 1, 1, 0] in row 1")):
        SparseLinear.from_dense(nn.Linear(8, 3), mask=mask, layout="2:4")


@pytest.mark.parametrize("init", ["variance", "masked"])
@pytest.mark.parametrize("method", [None, sx.FST(), sx.RigL()])
def test_sparsify_and_back(method, init):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 20), nn.ReLU(), nn.Linear(20, 6))
    before = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    assert sx.sparsify_(model, layout="2:4", method=method, init=init) is model
    for layer, dense in zip((model[0], model[2]), before, strict=True):
        assert layer.layout == "2:4"
        assert layer.capacity == (dense.numel() if isinstance(method, sx.FST) else 2 * dense.shape[0] * -(-dense.shape[1] // 4))
        assert torch.equal(layer.dense_weight(), dense * layer.mask()) == (init == "masked")
    y = model(X)
    torch.testing.assert_close(sx.densify_(model)(X), y)


def test_a_layer_that_is_too_narrow_stays_dense():
    model = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 4))
    with pytest.warns(UserWarning, match="'0' stays dense: expected at least 4 weights per output for layout '2:4', got 2"):
        sx.sparsify_(model, layout="2:4")
    assert isinstance(model[0], nn.Linear)
    assert isinstance(model[1], SparseLinear)


def dense_csr():
    layer = SparseLinear(8, 8)
    layer.store_dense_()
    return layer


BAD = {
    "another sparsity": (lambda: made(sparsity=0.9), r"sparsity 0.5 \(or None\) for layout '2:4', got 0.9"),
    "another capacity": (lambda: made(0.7), "capacity 0.5 .* or 1.0 .* got 0.7"),
    "three inputs": (lambda: made(cols=3), "at least 4 weights per output for layout '2:4', got 3"),
    "sparsify_ at 90 %": (lambda: sx.sparsify_(nn.Sequential(nn.Linear(8, 8)), 0.9, layout="2:4"), "sparsity 0.5"),
    "choose_ of a packed weight": (lambda: made().choose_("largest"), "a layer with a dense weight"),
    "choose_ by no rule": (lambda: made(1.0).choose_("largest3"), "got 'largest3'"),
    "choose_ by another layout's rule": (lambda: dense_csr().choose_("soft"), "one of the rules 'largest', got 'soft'"),
    "sample_gradient of csr": (lambda: SparseLinear(8, 8).sample_gradient(torch.zeros(2).long()), "samples .*got 'csr'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


# ---- beside the rest of PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_autocast(kind):
    """Products of bfloat16; a dense weight is cast as it is packed, and gets a gradient of its own dtype."""
    layer, x = ALL[kind](), X.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    weight = layer.dense_weight().bfloat16().float()
    torch.testing.assert_close(y.float(), X.bfloat16().float() @ weight.T + layer.bias, **TOLERANCE[torch.bfloat16])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(layer(X), y)


def test_leading_dimensions_and_activation():
    layer = made(1.0)
    args = (layer.weight, layer.bias, layer.pattern)
    y = SF.nm24_linear(X.view(5, 1, 13), *args, activation="relu")
    assert torch.equal(y, layer(X).relu().view(5, 1, 9))
    assert SF.nm24_linear(X[:0], *args).shape == (0, 9)
    with pytest.raises(ValueError, match=r"nm24_linear: expected x with 13 columns .* got shape"):
        SF.nm24_linear(X[:, :5].view(5, 1, 5), *args)


@pytest.mark.parametrize("columns", [9, 11, 12, 13])
@pytest.mark.parametrize("kind", ALL)
def test_x_of_another_width_is_refused(kind, columns):
    layer = ALL[kind](cols=10)
    with pytest.raises(
        ValueError,
        match=re.escape(f"nm24_linear: expected x with 10 columns (weight has 10 input features), got shape (3, {columns})"),
    ):
        layer(torch.randn(3, columns))


@pytest.mark.parametrize("kind", ALL)
def test_x_of_another_dtype_is_refused(kind):
    with pytest.raises(TypeError, match=r"nm24_linear: expected x of dtype torch.float32 \(as the weight\), got torch.float64"):
        ALL[kind]()(X.double())


def test_a_weight_of_another_length_is_refused():
    layer, other = made(0.5), made(1.0)
    with pytest.raises(ValueError, match=r"nm24_linear: expected weight of shape \(72,\), got \(71,\)"):
        SF.nm24_linear(X, layer.weight[:-1], None, layer.pattern)
    with pytest.raises(ValueError, match=r"nm24_linear: expected weight of shape \(117,\), got \(72,\)"):
        SF.nm24_linear(X, layer.weight, None, other.pattern, rule=Rule("largest"))


def test_functional_with_a_pattern_of_ones_own():
    weight = torch.randn(6, 8)
    _, ids = reference.nm24_prune(weight, "largest")
    mask = reference.nm24_unpack(torch.ones(6, 4), ids, 8).bool()
    pattern = Nm24Pattern.from_mask(mask)
    dense = weight.flatten().requires_grad_()
    x = torch.randn(3, 8)
    y = SF.nm24_linear(x, dense, None, pattern)
    torch.testing.assert_close(y, x @ (weight * mask).T)
    y.sum().backward()
    torch.testing.assert_close(dense.grad.view(6, 8), torch.ones(6, 3) @ x)


def test_flops_are_halved():
    layer, x = made(0.5, cols=16, bias=False), torch.randn(10, 16)
    dense = sx.count_flops(lambda: nn.functional.linear(x, layer.dense_weight()))
    assert sx.count_flops(lambda: layer(x)) == dense // 2


@pytest.fixture
def semi_structured_anywhere(monkeypatch):
    """PyTorch's own 2:4 tensors, of the layout that it converts itself, without its check for a GPU (products need one)."""
    monkeypatch.setattr(SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)
    check = classmethod(lambda cls, tensor: None)
    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_validate_device_dim_dtype_shape", check)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.usefixtures("semi_structured_anywhere")
def test_there_and_back_by_torchs_own_tensors(kind):
    layer = SparseLinear(128, 64, layout="2:4", capacity=0.5 if kind == "packed" else 1.0, dtype=torch.bfloat16)
    if kind != "packed":
        layer.choose_(kind)
    theirs = layer.to_semi_structured()
    assert isinstance(theirs.weight, SparseSemiStructuredTensor)
    assert torch.equal(theirs.weight.to_dense(), layer.dense_weight())
    ours = SparseLinear.from_dense(theirs, layout="2:4")
    assert torch.equal(ours.dense_weight(), layer.dense_weight())
    assert torch.equal(ours.bias, layer.bias)
    assert not ours.weight.requires_grad


@pytest.mark.parametrize("make", [lambda: SparseLinear(32, 32), lambda: SparseLinear(32, 32, layout="dense")])
def test_what_has_no_semi_structured_form(make):
    with pytest.raises(ValueError, match="expected a layer whose blocks are 1 x 4"):
        make().to_semi_structured()


@pytest.mark.parametrize("density", [0.0, 1.0], ids=["dense", "sparse"])
def test_few_tokens_are_multiplied_densely_where_that_was_measured_to_be_faster(monkeypatch, density):
    name = auto.device_name(X.device)
    table = {(name, torch.float32, product): (auto.Row(5, 117, 0, density),) for product in (FORWARD, GRAD_INPUT)}
    layer, x = made(1.0, "transposable"), X.clone().requires_grad_()
    want = layer(X)
    monkeypatch.setattr(auto.POLICY, "table", table)
    torch.testing.assert_close(layer(x), want)
    half, full = 2 * 5 * 9 * 8, 2 * 5 * 9 * 13
    assert sx.count_flops(lambda: layer(X)) == (full if density == 0.0 else half)
    flops = sx.count_flops(lambda: layer(x).sum().backward())
    assert flops == (3 * full if density == 0.0 else half + 2 * 5 * 13 * 6 + full)  # 9 rows: of 12, 6 are stored
