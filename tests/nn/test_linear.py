"""SparseLinear: the function of the dense layer with the same weight, an honest nnz, and the dense layer's initial scale."""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from cases import STATISTICAL, TOLERANCE, Shape, has_layout
from torch import nn

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS, GradientTotal


def watch(layer):
    """Keeps the dense gradient of the backward passes from now on."""
    return layer.watch(GradientTotal(layer.weight, layer.product))


def dense_twin(layer):
    """nn.Linear with the layer's function, in float64."""
    twin = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=torch.float64)
    with torch.no_grad():
        twin.weight.copy_(layer.dense_weight())
        if layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


@pytest.mark.only("layouts with kernels", lambda case: has_layout(case, Shape(9, 12, 10, 0.3)))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_function_and_gradients_are_the_dense_layers(bias, layout, device, dtype):
    density = {"sparsity": 0.7, "capacity": 0.4} if LAYOUTS[layout].pattern.VARIABLE else {}
    layer = SparseLinear(12, 9, bias, layout=layout, device=device, dtype=dtype, **density)
    twin = dense_twin(layer).to(device)
    x = torch.randn(2, 5, 12, dtype=dtype, device=device, requires_grad=True)
    dense_x = x.detach().double().requires_grad_()
    dy = torch.randn(2, 5, 9, device=device).to(dtype)
    y, want = layer(x), twin(dense_x)
    y.backward(dy)
    want.backward(dy.double())
    at = layer.slots()
    pairs = [(y, want), (x.grad, dense_x.grad), (layer.weight.grad[at >= 0], twin.weight.grad.flatten()[at[at >= 0]])]
    for got, expected in pairs + ([(layer.bias.grad, twin.bias.grad)] if bias else []):
        torch.testing.assert_close(got, expected.to(dtype), **TOLERANCE[dtype])
    assert layer.weight.grad.shape == layer.weight.shape == (layer.capacity,)
    assert (layer.weight.grad[at < 0] == 0).all()


def test_sparsity_is_ninety_percent_unless_told():
    assert SparseLinear(20, 10).nnz == 20
    assert "sparsity" not in SparseLinear(20, 10).state_dict()


@pytest.mark.parametrize(
    ("sparsity", "capacity", "nnz", "room"),
    [
        (0.0, None, 21, 21),
        (0.5, None, 10, 10),
        (0.9, None, 2, 2),
        (0.99, None, 0, 0),
        (0.9, 0.5, 2, 10),
        (0.9, 1.0, 2, 21),
    ],
)
def test_nnz_and_capacity(sparsity, capacity, nnz, room):
    layer = SparseLinear(7, 3, sparsity=sparsity, capacity=capacity)
    assert (layer.nnz, layer.capacity, layer.weight.shape) == (nnz, room, (room,))
    assert layer.density == nnz / 21
    assert int(layer.mask().sum()) == nnz
    assert layer.mask().shape == layer.dense_weight().shape == (3, 7)
    assert not layer.dense_weight().requires_grad
    assert (layer.weight[nnz:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (0, 3), (3, 0), (8, 6)], ids=str)
@pytest.mark.parametrize("watched", [False, True])
def test_degenerate_shapes(shape, watched):
    layer = SparseLinear(*shape, sparsity=0.5)
    if watched:
        watch(layer)
    x = torch.randn(4, shape[0], requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, F.linear(x, layer.dense_weight(), layer.bias))
    assert x.grad.shape == x.shape
    if watched:
        assert layer.unwatch().sink.total.shape == (shape[1], shape[0])


def test_a_layer_without_entries_is_its_bias():
    layer = SparseLinear(3, 2, sparsity=0.99)
    x = torch.full((4, 3), float("nan"), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, layer.bias.expand(4, 2))
    assert (x.grad == 0).all()
    assert layer.weight.grad.shape == (0,)


def test_repr_names_what_matters():
    text = repr(SparseLinear(20, 10, sparsity=0.75))
    assert "in_features=20, out_features=10, bias=True, nnz=50, density=0.25, layout='csr'" in text


# ---- initial values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 0.9, 0.98])
def test_outputs_have_the_dense_layers_variance(sparsity):
    layer, dense = SparseLinear(512, 768, sparsity=sparsity), nn.Linear(512, 768)
    x = torch.randn(1024, 512)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).var(), dense(x).var(), **STATISTICAL)
        torch.testing.assert_close(layer.bias.var(), dense.bias.var(), rtol=3 * STATISTICAL["rtol"], atol=0.0)


def test_initial_pattern_and_values_follow_the_seed():
    layers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        layers.append(SparseLinear(30, 20))
    assert torch.equal(layers[0].dense_weight(), layers[1].dense_weight())
    assert not torch.equal(layers[0].mask(), layers[2].mask())


def test_reset_parameters_makes_another_pattern_of_the_same_size():
    layer = SparseLinear(30, 20, capacity=0.2)
    before = layer.mask(), layer.weight
    layer.reset_parameters()
    assert layer.nnz == 60
    assert not torch.equal(layer.mask(), before[0])
    assert layer.weight is before[1]
    assert (layer.weight[60:] == 0).all()


# ---- dense and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip_through_a_mask(bias, dtype):
    dense = nn.Linear(10, 6, bias, dtype=dtype).eval()
    mask = torch.rand(6, 10) < 0.3
    layer = SparseLinear.from_dense(dense, mask=mask)
    assert layer.nnz == layer.capacity == mask.sum()
    assert torch.equal(layer.mask(), mask)
    assert torch.equal(layer.dense_weight(), dense.weight * mask)
    back = layer.to_dense()
    assert isinstance(back, nn.Linear)
    assert torch.equal(back.weight, dense.weight * mask)
    assert (back.bias is None) if not bias else torch.equal(back.bias, dense.bias)
    assert (layer.training, back.training) == (False, False)
    assert layer.weight.dtype == back.weight.dtype == dtype


def test_from_dense_keeps_the_largest_magnitudes_by_hand():
    dense = nn.Linear(4, 2)
    dense.weight.data = torch.tensor([[0.1, -5.0, 2.0, -2.0], [3.0, 0.0, 2.0, 0.2]])
    layer = SparseLinear.from_dense(dense, sparsity=0.5)
    # 5, 3, then two of the three 2s: the lower positions.
    assert layer.dense_weight().tolist() == [[0.0, -5.0, 2.0, -2.0], [3.0, 0.0, 0.0, 0.0]]
    assert SparseLinear.from_dense(dense).nnz == 1


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_conversions_keep_frozen_parameters_frozen(frozen):
    dense = nn.Linear(4, 3)
    getattr(dense, frozen).requires_grad_(False)
    for layer in (sparse := SparseLinear.from_dense(dense, sparsity=0.5), sparse.to_dense()):
        assert {name for name, p in layer.named_parameters() if not p.requires_grad} == {frozen}


def test_from_dense_copies():
    dense = nn.Linear(4, 3)
    layer = SparseLinear.from_dense(dense, sparsity=0.0)
    before = dense.weight.clone()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert torch.equal(dense.weight, before)
    assert (dense.bias != 0).any()


# ---- a watch on the dense gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_watch_sums_the_dense_gradient(dtype):
    layer = SparseLinear(12, 9, sparsity=0.7, dtype=dtype)
    assert layer.unwatch() is None
    watch(layer)
    wanted = torch.zeros(9, 12, dtype=torch.float64)
    for lead in ((5,), (2, 3), ()):  # micro-batches add up
        x, dy = torch.randn(*lead, 12, dtype=dtype), torch.randn(*lead, 9, dtype=dtype)
        layer(x).backward(dy)
        wanted += dy.reshape(-1, 9).double().T @ x.reshape(-1, 12).double()
    seen = layer.unwatch()
    assert seen.passes == 3
    growth = seen.sink.total
    assert growth.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(growth, wanted.to(growth.dtype), **TOLERANCE[growth.dtype])
    if dtype != torch.bfloat16:  # there grad is rounded after every micro-batch
        torch.testing.assert_close(growth[layer.mask()], layer.weight.grad, **TOLERANCE[dtype])
    assert layer.unwatch() is None


def test_growth_is_its_own_copy_and_only_from_real_backward_passes():
    layer = SparseLinear(6, 4, sparsity=0.5)
    x = torch.randn(5, 6, requires_grad=True)
    layer(x).sum().backward()
    watch(layer)
    with torch.no_grad():
        layer(x)
    for reentrant in (True, False):  # recomputation counts once
        torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    layer.weight.grad.mul_(100.0)  # clipping and unscaling touch grad only
    torch.testing.assert_close(layer.unwatch().sink.total, 2 * x.detach().sum(0).expand(4, 6))


def test_a_watch_changes_no_gradient():
    layer, grads = SparseLinear(6, 4, sparsity=0.5), []
    x = torch.randn(5, 6, requires_grad=True)
    for watched in (False, True):
        if watched:
            watch(layer)
        grads.append(torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias]))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_growth_under_autocast():
    layer = SparseLinear(6, 4, sparsity=0.5)
    watch(layer)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.backward(torch.ones(5, 4, dtype=torch.bfloat16))
    torch.testing.assert_close(layer.unwatch().sink.total, x.sum(0).expand(4, 6), **TOLERANCE[torch.bfloat16])
    assert layer.weight.grad.dtype == torch.float32


# ---- capacity ------------------------------------------------------------------------------------------------------------


def test_enlarging_keeps_identity_values_and_gradient():
    layer = SparseLinear(10, 6, sparsity=0.5)
    layer(torch.randn(3, 10)).sum().backward()
    parameter, grad, dense = layer.weight, layer.weight.grad.clone(), layer.dense_weight()
    layer.enlarge_(45)
    assert layer.weight is parameter
    assert (layer.capacity, layer.nnz, layer.weight.shape) == (45, 30, (45,))
    assert torch.equal(layer.weight.grad[:30], grad)
    assert (layer.weight.grad[30:] == 0).all()
    assert torch.equal(layer.dense_weight(), dense)
    layer.enlarge_(10)
    assert layer.capacity == 45
    layer(torch.randn(3, 10)).sum().backward()


# ---- overhead --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eager_overhead_of_a_tiny_layer():
    """A 1 x 8 forward without grad takes at most 3 nn.Linear: medians of interleaved runs, best of five on a noisy machine."""
    layer, dense, x = SparseLinear(8, 8, sparsity=0.5), nn.Linear(8, 8), torch.randn(1, 8)

    def seconds(module):
        begin = time.perf_counter()
        for _ in range(20):
            module(x)
        return time.perf_counter() - begin

    def ratio():
        runs = [(seconds(layer), seconds(dense)) for _ in range(100)]
        return statistics.median(s for s, _ in runs) / statistics.median(d for _, d in runs)

    with torch.no_grad():
        ratios = []
        while len(ratios) < 5 and (not ratios or min(ratios) > 3.0):
            ratios.append(ratio())
    assert min(ratios) <= 3.0, ratios
