"""SparseConv2d and SparseConv1d: PyTorch's convolution with the same weight, of every window, padding and form of input."""

import math

import pytest
import torch
from cases import STATISTICAL, TOLERANCE
from torch import nn
from torch.nn.utils import prune

from sparse_ext import SparseConv1d, SparseConv2d


def assert_same_function(layer, x, dtype=torch.float64):
    """y and all gradients are those of the dense layer."""
    dense = layer.to_dense()
    x, dense_x = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    y, want = layer(x), dense(dense_x)
    dy = torch.randn_like(want)
    y.backward(dy)
    want.backward(dy)
    at = layer.slots()
    pairs = [(y, want), (x.grad, dense_x.grad), (layer.weight.grad[at >= 0], dense.weight.grad.flatten()[at[at >= 0]])]
    for got, expected in pairs + ([(layer.bias.grad, dense.bias.grad)] if layer.bias is not None else []):
        torch.testing.assert_close(got, expected, **TOLERANCE[dtype])
    assert (layer.weight.grad[at < 0] == 0).all()
    return y


def layer_of(*args, **kwargs):
    return SparseConv2d(*args, **{"sparsity": 0.6, "dtype": torch.float64, **kwargs})


# ---- the function ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, (2, 5), (7, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, (3, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_function_and_gradients_are_the_dense_layers(kernel, stride, padding, dilation, groups, bias):
    layer = layer_of(4, 8, kernel, stride, padding, dilation, groups, bias, capacity=0.5)
    assert_same_function(layer, torch.randn(3, 4, 13, 10, dtype=torch.float64))


PADDINGS = [
    {"padding": "same", "kernel_size": (3, 5), "dilation": 2},
    {"padding": "same", "kernel_size": (2, 4)},  # one pixel more behind than before
    {"padding": "valid", "stride": 2},
    *({"padding": (1, 2), "padding_mode": mode} for mode in ("zeros", "reflect", "replicate", "circular")),
    *({"padding": "same", "kernel_size": (2, 3), "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
]


@pytest.mark.parametrize("choices", PADDINGS, ids=lambda choices: "-".join(map(str, choices.values())))
@pytest.mark.parametrize("lead", [(2,), ()], ids=["batch", "image"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_every_padding(choices, lead):
    layer = layer_of(4, 6, **{"kernel_size": 3, **choices})
    assert_same_function(layer, torch.randn(*lead, 4, 7, 6, dtype=torch.float64))


def test_without_padding_the_mode_does_not_matter():
    """Nothing is copied."""
    layer, seen = layer_of(4, 6, 3, padding_mode="circular"), []
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor.data_ptr()), lambda _: None):
        layer(x)
    assert x.data_ptr() in seen


FORMS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "every second": lambda x: torch.stack([x, -x], -1)[..., 0],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "unbatched": lambda x: x[0],
    "empty batch": lambda x: x[:0],
    "one pixel": lambda x: x[..., :3, :3],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input(form):
    layer, x = layer_of(4, 6, 3), FORMS[form](torch.randn(3, 4, 7, 7, dtype=torch.float64))
    y = assert_same_function(layer, x)
    assert y.is_contiguous(memory_format=torch.channels_last if form == "channels_last" else torch.contiguous_format)


@pytest.mark.parametrize("lead", [(3,), (), (0,)], ids=["batch", "signal", "empty batch"])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"stride": 2, "padding": 3, "dilation": 2},
        {"groups": 2, "bias": False},
        {"padding": "same", "kernel_size": 4},
        *({"padding": 2, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
    ],
    ids=lambda choices: "-".join(map(str, choices.values())),
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_signals(choices, lead):
    layer = SparseConv1d(4, 6, **{"kernel_size": 3, "sparsity": 0.6, "dtype": torch.float64, **choices})
    assert layer.mask().shape == layer.to_dense().weight.shape
    assert_same_function(layer, torch.randn(*lead, 4, 9, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 4, 1, 9), (2, 3, 9), (3, 9), (9,)], ids=str)
def test_other_signals_are_refused(shape):
    with pytest.raises(ValueError, match=r"csr_conv1d: expected x \[batch, 4, length\], or one signal .*, got \("):
        SparseConv1d(4, 6, 3)(torch.zeros(shape))


def test_what_no_entry_meets_reaches_no_output():
    layer = SparseConv2d.from_dense(nn.Conv2d(1, 1, 3, bias=False), mask=torch.arange(9).view(1, 1, 3, 3) == 4)
    x = torch.ones(1, 1, 5, 5)
    x[..., 0, 2], x[..., 2, 2] = math.nan, math.inf
    y = layer(x)
    assert y.isinf().flatten().tolist() == [False] * 4 + [True] + [False] * 4
    assert not y.isnan().any()


# ---- what is refused -------------------------------------------------------------------------------------------------

WRONG = {
    "stride": ({"stride": 0}, "SparseConv2d: expected stride to be a whole number of at least 1, or 2 of them, got 0"),
    "dilation": ({"dilation": (1, 0)}, r"expected dilation to be a whole number of at least 1, or 2 of them, got \(1, 0\)"),
    "kernel": ({"kernel_size": 0}, "expected kernel_size to be a whole number of at least 1, or 2 of them, got 0"),
    "negative padding": ({"padding": -1}, "expected padding to be a whole number of at least 0, or 2 of them, got -1"),
    "negative reflection": (
        {"padding": (0, -1), "padding_mode": "reflect"},
        r"expected padding to be a whole number of at least 0, or 2 of them, got \(0, -1\)",
    ),
    "three sizes": ({"kernel_size": (3, 3, 3)}, r"expected kernel_size to be a whole number .* got \(3, 3, 3\)"),
    "a fraction": ({"stride": 1.5}, r"expected stride to be a whole number .* got 1\.5"),
    "a word": ({"padding": "full"}, "expected padding to be a whole number .* got 'full'"),
    "same": ({"padding": "same", "stride": 2}, "expected stride 1 with padding 'same', got 2"),
    "mode": ({"padding_mode": "zero"}, "expected padding_mode to be one of 'zeros', .*, got 'zero'"),
    "groups in": ({"groups": 3}, "expected groups to divide in_channels 4, got 3"),
    "groups out": ({"groups": 4}, "expected groups to divide out_channels 6, got 4"),
    "fraction of channels": ({"in_channels": 4.0}, r"expected in_channels to be a whole number of at least 1, got 4\.0"),
    "no groups": ({"groups": 0}, "expected groups to be a whole number of at least 1, got 0"),
    "no channels": ({"in_channels": 0}, "expected in_channels to be a whole number of at least 1, got 0"),
    "layout": ({"layout": "coo"}, "expected layout to be one of"),
    "sparsity": ({"sparsity": 1.0}, r"expected sparsity in \[0, 1\), got 1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_convolution_is_refused(case):
    choices, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        SparseConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **choices})


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (3, 5, 5), (4, 5), (1, 2, 4, 5, 5)], ids=str)
def test_other_images_are_refused(shape, padding_mode):
    layer = SparseConv2d(4, 6, 3, padding=1, padding_mode=padding_mode)
    with pytest.raises(ValueError, match=r"expected x \[batch, 4, height, width\].*, got \("):
        layer(torch.zeros(shape))


def test_an_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match=r"expected x of at least 5 x 5 pixels with its padding .*, got 4 x 6"):
        SparseConv2d(1, 1, 3, padding=1, dilation=2)(torch.zeros(1, 1, 2, 4))


# ---- dense and back --------------------------------------------------------------------------------------------------


def test_there_and_back():
    dense = nn.Conv2d(4, 6, (3, 2), 2, (1, 0), 2, 2, False, "circular", dtype=torch.float64).eval()
    layer = SparseConv2d.from_dense(dense, sparsity=0.5)
    back = layer.to_dense()
    assert repr(back) == repr(dense)
    assert (layer.bias, back.bias, layer.training, back.training) == (None, None, False, False)
    largest = dense.weight.abs() >= dense.weight.abs().flatten().kthvalue(37).values
    assert torch.equal(layer.mask(), largest)
    assert torch.equal(back.weight, dense.weight * largest)
    assert torch.equal(layer.dense_weight(), back.weight)


def test_a_pruned_convolution_keeps_its_mask():
    """Also what an optimizer step has changed since the last forward pass; frozen stays frozen."""
    dense = prune.l1_unstructured(nn.Conv2d(4, 6, 3), "weight", 0.8)
    dense.bias.requires_grad_(False)
    with torch.no_grad():
        dense.weight_orig.mul_(2)
    layer = SparseConv2d.from_dense(dense, mask=dense.weight_mask.bool())
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x), dense(x), **TOLERANCE[torch.float32])
    assert layer.nnz == int(dense.weight_mask.sum())
    assert [p.requires_grad for p in (layer.weight, layer.bias)] == [True, False]


def test_another_layer_is_refused():
    with pytest.raises(TypeError, match=r"SparseConv2d\.from_dense: expected a Conv2d, got Linear"):
        SparseConv2d.from_dense(nn.Linear(4, 6))


def test_initial_values_have_the_dense_layers_scale():
    layer, dense, x = SparseConv2d(32, 64, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1), torch.randn(4, 32, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).var(), dense(x).var(), **STATISTICAL)
