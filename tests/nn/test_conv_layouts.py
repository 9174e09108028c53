"""Convolutions of every layout, and of every dense weight of which products take a part: the dense layer's function."""

import pytest
import torch
from cases import TOLERANCE, Shape, has_layout
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import LAYOUTS, auto, product

LAYERS = {
    "plain": (sx.SparseConv2d, {"kernel_size": 3, "padding": 1}, (5, 6)),
    "strided": (sx.SparseConv2d, {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)}, (7, 5)),
    "grouped": (sx.SparseConv2d, {"kernel_size": 3, "groups": 2}, (5, 4)),
    "depthwise": (sx.SparseConv2d, {"kernel_size": 3, "groups": 8, "padding": 1}, (4, 5)),
    "reflected": (sx.SparseConv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (5, 4)),
    "signals": (sx.SparseConv1d, {"kernel_size": 4, "padding": "same"}, (9,)),
    "grouped signals": (sx.SparseConv1d, {"kernel_size": 5, "stride": 2, "padding": 3, "groups": 4}, (9,)),
}


def made(case, layout, chosen=False, **options):
    """A layer and the size of its images; chosen: products take a part of a dense weight."""
    kind, window, size = LAYERS[case]
    density = {"sparsity": 0.6} if LAYOUTS[layout].pattern.VARIABLE else {}
    layer = kind(8, 16, **window, layout=layout, **density, **options)
    if chosen:
        layer.store_dense_()
        layer.reset_parameters()
    return layer, size


def outcome(layer, x, dy):
    """y and all gradients."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    return y.detach(), x.grad, layer.weight.grad.flatten(), layer.bias.grad


def whole(largest, shape, like):
    """Random whole numbers. Sums of their products are exact in every dtype, whatever is rounded in between."""
    return torch.randint(-largest, largest + 1, shape).to(like)


def assert_agrees(layer, size):
    dtype = layer.weight.dtype
    with torch.no_grad():
        layer.weight.copy_(whole(2, layer.weight.shape, layer.weight)).masked_fill_(layer.slots() < 0, 0)
        layer.bias.copy_(whole(2, layer.bias.shape, layer.bias))
        x = whole(1, size, layer.weight)
        dense, dy = layer.to_dense().double(), whole(1, layer(x).shape, x)
    got, want = outcome(layer, x, dy), outcome(dense, x.double(), dy.double())
    at = layer.slots()
    for name, one, other in zip(("y", "dx", "dw", "db"), got, want, strict=True):
        if name == "dw":
            assert not one[at < 0].any()
            one, other = one[at >= 0], other[at[at >= 0]]
        assert torch.equal(one, other.to(dtype)), name


def is_possible(case):
    return has_layout(case, Shape(8, 8, 1, 0.5)) and (not case.chosen or bool(LAYOUTS[case.layout].pattern.RULES))


@pytest.mark.only("layouts with kernels and rules", is_possible)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chosen", [False, True], ids=["packed", "dense weight"])
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_function_and_gradients_are_the_dense_layers(case, chosen, layout, device, dtype):
    layer, size = made(case, layout, chosen, dtype=dtype, device=device)
    assert_agrees(layer, (3, 8, *size))


@pytest.mark.parametrize("positions", [1, 150, 1000])
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("layout", ["2:4", "ell"])
@pytest.mark.parametrize("case", ["plain", "strided"])
def test_tokens_come_in_tiles(case, layout, batch, positions, monkeypatch):
    """Of a part of an image, of one and of several."""
    monkeypatch.setitem(product.TILE, "cpu", positions)
    layer, size = made(case, layout, dtype=torch.float64)
    assert_agrees(layer, (batch, 8, *size))


def test_tiles_are_no_larger_than_they_may_be(monkeypatch):
    """But for a single row of pixels, which is the least."""
    layer, (height, width) = made("plain", "ell")
    seen, forward = [], LAYOUTS["ell"].products[sx.ops.Linear].forward
    kernels = LAYOUTS["ell"].products[sx.ops.Conv2d].of
    monkeypatch.setattr(kernels, "forward", lambda *a: seen.append(a[4].shape[0]) or forward(*a))
    for rows, expected in ((0.5, [1] * 10), (2.5, [2, 2, 1] * 2), (5, [5] * 2), (10, [10])):
        monkeypatch.setitem(product.TILE, "cpu", int(rows * width * layer.product.cols))
        seen.clear()
        layer(torch.randn(2, 8, height, width))
        assert seen == [count * width for count in expected]


@pytest.mark.parametrize("dynamic", [None, True], ids=["static first", "dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["plain", "signals"])
def test_compiled_code_is_the_eager_code(case, layout, dynamic):
    torch._dynamo.reset()
    layer, size = made(case, layout)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    for batch in (2, 3, 11):  # from 16 images on torch's own convolution has another program
        x = torch.randn(batch, 8, *size)
        dy = torch.randn(layer(x).shape)
        for got, want in zip(outcome(compiled, x, dy), outcome(layer, x, dy), strict=True):
            torch.testing.assert_close(got, want, **TOLERANCE[torch.float32])
    assert counter.frame_count <= 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["plain", "signals"])
def test_export_with_any_batch(case, layout):
    layer, size = made(case, layout)
    x = torch.randn(4, 8, *size)
    program = torch.export.export(layer.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (2, 30):
        x = torch.randn(batch, 8, *size)
        torch.testing.assert_close(program(x), layer(x), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_smaller_than_the_kernel_is_refused(layout):
    for layer, size in (made("plain", layout), made("grouped signals", layout)):
        for x in (torch.zeros(2, 7, *size), torch.zeros(3, 3, 3, 3, 3)):
            with pytest.raises(ValueError, match=r"conv[12]d: expected x \[batch, 8, .*\], or one .*, got \("):
                layer(x)
    layer = sx.SparseConv2d(8, 4, 5, layout=layout)
    with pytest.raises(ValueError, match=r"conv2d: expected x of at least 5 x 5 pixels .*, got 4 x 6"):
        layer(torch.zeros(2, 8, 4, 6))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["plain", "grouped"])
def test_relu_in_the_product(case, layout):
    layer, size = made(case, layout)
    x = torch.randn(2, 8, *size, requires_grad=True)
    operands, grads = sx.ops.operands_of(LAYOUTS[layout], layer.pattern), []
    fused = sx.ops.multiply(
        LAYOUTS[layout], layer.product, x, layer.weight, layer.bias, operands, layer.chosen_by, activation="relu"
    )
    assert torch.equal(fused, layer(x).relu())
    for y in (fused, layer(x).relu()):
        grads.append(torch.autograd.grad(y.sum(), [x, layer.weight, layer.bias]))
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


# ---- what "auto" makes of a model --------------------------------------------------------------------------------------


def mobile():
    """A depthwise separable convolution, of images and of signals, and one of a single channel."""
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(1, 16, 3),
            "depthwise": nn.Conv2d(16, 16, 3, groups=16),
            "pointwise": nn.Conv2d(16, 32, 1),
            "signals": nn.Conv1d(16, 32, 4, groups=16),
        }
    )


def test_auto_leaves_depthwise_convolutions_dense():
    sentence = "sparsify_: '(depthwise|signals)' stays dense: a depthwise convolution has too few weights for zeros to pay"
    with pytest.warns(UserWarning, match=sentence):
        model = sx.sparsify_(mobile(), 0.5)
    with pytest.warns(UserWarning, match=sentence):
        assert set(sx.layer_densities(mobile(), 0.5)) == {"stem", "pointwise"}
    assert {name for name, layer in model.items() if type(layer) in (nn.Conv1d, nn.Conv2d)} == {"depthwise", "signals"}
    assert set(sparse_layers(sx.sparsify_(mobile(), 0.5, distribution="uniform", layout="csr"))) == set(mobile())
    assert set(sx.layer_densities(mobile(), 0.5, layout="csr")) == set(mobile())


def test_a_depthwise_convolution_of_layout_auto_is_torchs():
    """It counts the zeros, as it multiplies them."""
    layer, x = sx.SparseConv2d(8, 8, 3, groups=8, sparsity=0.9, layout="auto"), torch.randn(2, 8, 5, 5)
    assert sx.count_flops(lambda: layer(x)) == 2 * 2 * 9 * 72
    layer, x = sx.SparseConv2d(8, 8, 3, sparsity=0.9, layout="auto"), torch.randn(2, 8, 5, 5, requires_grad=True)
    assert sx.count_flops(lambda: layer(x).sum().backward()) == 3 * 2 * 2 * 9 * layer.nnz


@pytest.mark.parametrize("faster", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["conv2d", "conv2d_t", "conv2d_grad_weight"])
def test_auto_convolves_as_was_measured(name, faster, monkeypatch):
    """Of two rows the one with as many tokens as y has pixels counts."""
    layer, size = made("plain", "auto", bias=False)
    x, positions, pixels = torch.randn(3, 8, *size, requires_grad=True), layer.mask().numel(), 3 * size[0] * size[1]
    rows = [auto.Row(pixels, positions, 0, 0.1), auto.Row(1, positions, 0, 0.9)]
    if faster == "sparse":
        rows = [row._replace(density=1 - row.density) for row in rows]
    key = (auto.device_name(x.device), torch.float32, name)
    monkeypatch.setattr(auto.POLICY, "table", {key: tuple(rows)})
    flops = sx.count_flops(lambda: layer(x).square().sum().backward())
    assert flops == 2 * pixels * (2 * layer.nnz + (positions if faster == "dense" else layer.nnz))
    got, x.grad = x.grad, None
    layer.to_dense()(x).square().sum().backward()
    torch.testing.assert_close(got, x.grad, **TOLERANCE[torch.float32])


def test_what_has_too_few_weights_for_a_layout_stays_dense():
    with pytest.warns(UserWarning, match="'0' stays dense: expected at least 4 weights per output for layout '2:4', got 3"):
        model = sx.sparsify_(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)), layout="2:4")
    assert set(sparse_layers(model)) == {"1"}
