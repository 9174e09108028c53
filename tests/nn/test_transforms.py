"""What is beyond one backward pass: torch.func, forward-mode and second derivatives are the dense layer's, at the pattern."""

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

CLOSE = TOLERANCE[torch.float32]
EVERY = [(kind, layout) for kind in KINDS for layout in LAYOUTS]


def twins(kind, layout):
    """A sparse layer, the dense layer of the same function, and an input."""
    layer = KINDS[kind].made(layout=layout)
    return layer, layer.to_dense(), KINDS[kind].input()


def values(layer):
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def assert_at_pattern(layer, got, want):
    """A gradient of the weight, or one for each example, is the dense weight's at the pattern, and 0 in unused slots."""
    at, want = layer.slots(), want.flatten(-len(layer.product.weight_shape))
    torch.testing.assert_close(got[..., at >= 0], want[..., at[at >= 0]], **CLOSE)
    assert (got[..., at < 0] == 0).all()


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_gradients_of_torch_func(kind, layout):
    """Of all examples together, and of each."""
    layer, dense, x = twins(kind, layout)

    def of(module, inputs):
        return lambda parameters, x=inputs: functional_call(module, parameters, (x,)).square().sum()

    got, want = (grad(of(module, x))(values(module)) for module in (layer, dense))
    assert_at_pattern(layer, got["weight"], want["weight"])
    torch.testing.assert_close(got["bias"], want["bias"], **CLOSE)
    got, want = (vmap(grad(of(module, x)), (None, 0))(values(module), x) for module in (layer, dense))
    assert_at_pattern(layer, got["weight"], want["weight"])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_tangents_and_batches(kind, layout, mode):
    layer, dense, x = twins(kind, layout)
    t = torch.randn(x.shape)
    with mode():
        torch.testing.assert_close(vmap(layer)(x), dense(x), **CLOSE)
        torch.testing.assert_close(jvp(layer, (x,), (t,)), jvp(dense, (x,), (t,)), **CLOSE)
        with forward_ad.dual_level():
            got, want = (forward_ad.unpack_dual(module(forward_ad.make_dual(x, t))).tangent for module in (layer, dense))
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_jacobians(kind, layout):
    layer, dense, x = twins(kind, layout)
    for jacobian in (jacrev, jacfwd):
        torch.testing.assert_close(jacobian(layer)(x[0]), jacobian(dense)(x[0]), **CLOSE)
    got, want = (hessian(lambda x, module=module: module(x).pow(3).sum())(x[0]) for module in (layer, dense))
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_ensemble_of_weights(layout):
    layer, _, x = twins("linear", layout)
    stacked = {name: torch.stack([value, 2 * value]) for name, value in values(layer).items()}
    y = vmap(lambda parameters: functional_call(layer, parameters, (x,)))(stacked)
    torch.testing.assert_close(y, torch.stack([layer(x), 2 * layer(x)]), **CLOSE)


@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias")])
@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_second_derivatives(kind, layout, frozen):
    """A penalty on the slope with respect to the input, as of adversarial networks."""
    layer, dense, x = twins(kind, layout)
    results = []
    for module in (layer, dense):
        for name in frozen:
            getattr(module, name).requires_grad_(False)
        inputs = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(inputs).pow(3).sum(), inputs, create_graph=True)
        slope.square().sum().backward()
        results.append((inputs.grad, module.weight.grad))
    (got, got_weight), (want, want_weight) = results
    torch.testing.assert_close(got, want, **CLOSE)
    if frozen:
        assert got_weight is None
    else:
        assert_at_pattern(layer, got_weight, want_weight)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_on_meta(kind, layout):
    """Shapes are known there, of second derivatives too."""
    layer, x = KINDS[kind].made(layout=layout, device="meta"), KINDS[kind].input().to("meta").requires_grad_()
    found = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight], create_graph=True)
    torch.autograd.grad(found[0].sum(), layer.weight)
    assert [tensor.shape for tensor in found] == [x.shape, layer.weight.shape]


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.pattern.RULES])
def test_a_dense_weight_gets_all_of_its_gradient(layout):
    """Straight through, by every rule of the layout: as its own backward pass gives it."""
    for rule in LAYOUTS[layout].pattern.RULES:
        layer, x = sx.SparseLinear(12, 8, layout=layout), torch.randn(5, 12)
        layer.store_dense_()
        layer.choose_(rule)
        got = grad(lambda p, layer=layer, x=x: functional_call(layer, p, (x,)).square().sum())(values(layer))["weight"]
        layer(x).square().sum().backward()
        torch.testing.assert_close(got, layer.weight.grad, **CLOSE)
        torch.testing.assert_close(vmap(layer)(x), layer(x), **CLOSE)


def test_backward_through_a_tangent_counts_as_a_pass():
    """A loss on a directional derivative, in an ordinary backward pass: growth sees its dense gradient."""
    layer, dense, x = twins("conv2d", "csr")
    sink = sx.ops.GradientTotal(layer.weight, layer.product)
    layer.watch(sink)
    for module in (layer, dense):
        with forward_ad.dual_level():
            y, tangent = forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.ones_like(x))))
            (y.sum() + tangent.square().sum()).backward()
    assert layer.unwatch().passes == 1
    torch.testing.assert_close(sink.total, dense.weight.grad.flatten(1), **CLOSE)


def test_hessian_vector_products_of_an_optimizer():
    """AdaHessian's estimate, whatever stands around the layers."""
    torch.manual_seed(0)
    model = nn.Sequential(sx.SparseLinear(12, 9, layout="auto"), nn.Tanh(), sx.SparseLinear(9, 3))
    dense, x = sx.densify_(nn.Sequential(*(type(m)() if isinstance(m, nn.Tanh) else m for m in model))), torch.randn(5, 12)
    layer, weights = model[0], [model[0].weight, dense[0].weight]
    found = []
    for module, weight in zip((model, dense), weights, strict=True):
        (first,) = torch.autograd.grad(module(x).square().mean(), weight, create_graph=True)
        direction = torch.ones_like(weight) if weight is layer.weight else layer.mask().float()
        found.append(torch.autograd.grad(first, weight, direction)[0])
    assert_at_pattern(layer, *found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_step_is_differentiated(kind):
    """MAML: the loss after a step of gradient descent, with respect to the weights before it."""
    layer, dense, x = twins(kind, "csr")
    mask, results = {layer: 1.0, dense: layer.mask()}, []
    for module in (layer, dense):
        before = {name: parameter * (mask[module] if name == "weight" else 1) for name, parameter in module.named_parameters()}
        grads = torch.autograd.grad(
            functional_call(module, before, (x,)).pow(3).mean(), list(before.values()), create_graph=True
        )
        after = {name: value - 0.1 * grad for (name, value), grad in zip(before.items(), grads, strict=True)}
        after["weight"] = after["weight"] * mask[module]
        functional_call(module, after, (x,)).square().sum().backward()
        results.append((module.weight.grad, module.bias.grad))
    (got, got_bias), (want, want_bias) = results
    assert_at_pattern(layer, got, want)
    torch.testing.assert_close(got_bias, want_bias, **CLOSE)
