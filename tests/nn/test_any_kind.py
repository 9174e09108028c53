"""Layers of every kind, in every layout: what surrounds them is what surrounds their dense counterparts."""

import copy

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparse_ext import densify_, sparsify_
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import LAYOUTS

CLOSE = TOLERANCE[torch.float32]
EVERY = [(kind, layout) for kind in KINDS for layout in LAYOUTS]


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_autocast_casts_what_is_multiplied(kind, layout):
    layer, x = KINDS[kind].made(layout=layout), KINDS[kind].input().requires_grad_()
    rounded = copy.deepcopy(layer).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, rounded(x.bfloat16()), **TOLERANCE[torch.bfloat16])
    y.sum().backward()
    assert {tensor.grad.dtype for tensor in (x, *layer.parameters())} == {torch.float32}


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_inference_mode(kind, layout):
    layer, x = KINDS[kind].made(layout=layout), KINDS[kind].input()
    want = layer(x)
    with torch.inference_mode():
        for one in (layer, copy.deepcopy(layer), layer.to_dense()):
            torch.testing.assert_close(one(x), want, **CLOSE)
        model = sparsify_(nn.Sequential(KINDS[kind].made_dense()), layout=layout)
        model[0].load_state_dict(KINDS[kind].made_dense().state_dict())
        torch.testing.assert_close(densify_(copy.deepcopy(model))(x), model(x), **CLOSE)
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_a_meta_layer_knows_its_shapes(kind, layout):
    with torch.device("meta"):
        layer = KINDS[kind].made(layout=layout)
    x = KINDS[kind].input()
    assert layer(x.to("meta")).shape == KINDS[kind].made_dense()(x).shape


@pytest.mark.parametrize("kind", KINDS)
def test_activations_in_place_and_frozen_inputs(kind):
    """In a model an activation overwrites what a layer gives; the first layer's input needs no gradient."""
    model = nn.Sequential(KINDS[kind].made_dense(), nn.ReLU(inplace=True))
    sparsify_(model, 0.5)
    dense, x = densify_(copy.deepcopy(model)), KINDS[kind].input()
    for one in (model, dense):
        one(x).square().sum().backward()
    (layer,), twin = sparse_layers(model).values(), dense[0]
    at = layer.slots()
    torch.testing.assert_close(layer.weight.grad[at >= 0], twin.weight.grad.flatten()[at[at >= 0]], **CLOSE)
    torch.testing.assert_close(layer.bias.grad, twin.bias.grad, **CLOSE)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_masked_layers_begin_with_the_dense_values(kind, layout):
    dense = KINDS[kind].made_dense()
    (layer,) = sparsify_(nn.Sequential(dense), layout=layout, init="masked")
    assert torch.equal(layer.dense_weight(), dense.weight.detach() * layer.mask())
    assert torch.equal(layer.bias, dense.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_keeps_mode_dtype_and_frozen_parameters(kind):
    dense = KINDS[kind].made_dense(dtype=torch.float64).eval()
    dense.weight.requires_grad_(False)
    sparse = KINDS[kind].sparse.from_dense(dense, sparsity=0.5)
    for one in (sparse, sparse.to_dense()):
        assert ([p.requires_grad for p in (one.weight, one.bias)], one.training) == ([False, True], False)
        assert one.weight.dtype == torch.float64
    assert repr(sparse.to_dense()) == repr(dense)


# ---- what cannot be replaced ---------------------------------------------------------------------------------------------


def subclass(kind):
    return type("Doubled", (KINDS[kind].dense,), {})(**KINDS[kind].arguments)


def hooked(kind):
    layer = KINDS[kind].made_dense()
    layer.register_forward_hook(lambda *_: None)
    return layer


def lazy(kind):
    arguments = {name: value for name, value in KINDS[kind].arguments.items() if name not in ("in_features", "in_channels")}
    return getattr(nn, f"Lazy{KINDS[kind].dense.__name__}")(**arguments)


ODD = {
    "lazy": (lazy, "no weight before its first batch"),
    "complex": (lambda kind: KINDS[kind].made_dense(dtype=torch.complex64), "no kernels for torch.complex64"),
    "pruned": (lambda kind: prune.random_unstructured(KINDS[kind].made_dense(), "weight", 0.5), "computed by a hook"),
    "parametrized": (lambda kind: parametrizations.weight_norm(KINDS[kind].made_dense()), "weight is parametrized"),
    "subclass": (subclass, "Doubled is a subclass"),
    "hooked": (hooked, "hooks would be lost"),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_replaced_stays_dense(kind, case):
    make, reason = ODD[case]
    model = nn.ModuleDict({"odd": make(kind), "plain": KINDS[kind].made_dense()})
    before = model["odd"]
    with pytest.warns(UserWarning, match=f"sparsify_: 'odd' stays dense: .*{reason}"):
        sparsify_(model, 0.5)
    assert model["odd"] is before
    assert set(sparse_layers(model)) == {"plain"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_layer_is_refused(kind):
    sparse, dense = KINDS[kind].made(), KINDS[kind].made_dense()
    with pytest.raises(ValueError, match=rf"got a bare {type(dense).__name__}; use {type(sparse).__name__}\.from_dense"):
        sparsify_(dense)
    with pytest.raises(ValueError, match="got a bare layer; use to_dense"):
        densify_(sparse)
