"""sparse_ext.utils: norms and initialisers are those of the masked dense layer; torch's own, of a flat weight, are refused."""

import copy
import pickle

import pytest
import torch
from cases import STATISTICAL, TOLERANCE
from kinds import KINDS
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS, GradientTotal

CLOSE = TOLERANCE[torch.float32]
EVERY = [(kind, layout) for kind in KINDS for layout in LAYOUTS]
PACKED = [name for name in LAYOUTS if sx.SparseLinear(12, 9, layout=name).chosen_by is None]
NORMS = {"spectral_norm": sx.utils.spectral_norm, "weight_norm": sx.utils.weight_norm}


def made(kind, layout):
    """A layer without empty rows."""
    density = {"sparsity": 0.4} if LAYOUTS[layout].pattern.VARIABLE else {}
    return KINDS[kind].made(layout=layout, dtype=torch.float64, **density)


def passes(layer, x):
    """y and the input gradient of a forward and a backward pass."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_spectral_norm(kind, layout):
    """As torch's of the dense layer, once both have found the singular vectors; growth sees all of the gradient."""
    layer, x = made(kind, layout), KINDS[kind].input().double()
    dense = parametrizations.spectral_norm(layer.to_dense(), n_power_iterations=500)
    assert sx.utils.spectral_norm(layer, n_power_iterations=500) is layer
    sink = GradientTotal(layer.weight, layer.product)
    layer.watch(sink)
    for got, want in zip(passes(layer, x), passes(dense, x), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    everywhere, at = dense.parametrizations.weight.original.grad.flatten(1), layer.slots()
    torch.testing.assert_close(layer.weight.grad[at >= 0], everywhere.flatten()[at[at >= 0]], **CLOSE)
    torch.testing.assert_close(sink.total, everywhere, **CLOSE)
    assert layer.unwatch().passes == 1
    before = layer.spectral_norm.u.clone()
    layer.eval()(x)
    assert torch.equal(layer.spectral_norm.u, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", PACKED)
def test_weight_norm(layout, kind):
    layer, x = made(kind, layout), KINDS[kind].input().double()
    dense, plain = parametrizations.weight_norm(layer.to_dense()), layer(x)
    assert sx.utils.weight_norm(layer) is layer
    torch.testing.assert_close(layer(x), plain, **CLOSE)
    with torch.no_grad():
        layer.weight_norm.g.mul_(2)
        dense.parametrizations.weight.original0.mul_(2)
    sink = GradientTotal(layer.weight, layer.product)
    layer.watch(sink)
    for got, want in zip(passes(layer, x), passes(dense, x), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    g, everywhere = (one.grad.flatten(1) for one in dense.parametrizations.weight.parameters())
    at = layer.slots()
    torch.testing.assert_close(layer.weight_norm.g.grad, g.flatten(), **CLOSE)
    torch.testing.assert_close(layer.weight.grad[at >= 0], everywhere.flatten()[at[at >= 0]], **CLOSE)
    off = ~layer.mask().flatten(1)
    torch.testing.assert_close(sink.total[off], everywhere[off], **CLOSE)


def test_empty_rows_and_layers():
    for norm in NORMS.values():
        for sparsity in (0.9, 0.999):
            layer = norm(sx.SparseLinear(12, 9, sparsity=sparsity))
            y = layer(torch.randn(4, 12))
            y.sum().backward()
            assert y.isfinite().all()
            assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_a_norm_is_a_layer(kind, norm):
    """It is copied, pickled, saved, traced, cast, converted and freed of the norm, and its function stays."""
    layer, x = NORMS[norm](made(kind, "csr")).eval(), KINDS[kind].input().double()
    y = layer(x)
    other = NORMS[norm](made(kind, "csr")).eval()
    other.load_state_dict(layer.state_dict())
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    for one in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other, layer.to_dense(), traced):
        torch.testing.assert_close(one(x), y, **CLOSE)
    torch.testing.assert_close(copy.deepcopy(layer).float()(x.float()), y.float(), **CLOSE)
    torch.testing.assert_close(layer(x=x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert copy.deepcopy(layer).float()(x.float()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=f"got one with {norm}; use remove_norm first"):
        sx.utils.spectral_norm(layer)
    assert sx.utils.remove_norm(layer) is layer
    torch.testing.assert_close(layer(x), y, **CLOSE)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    with pytest.raises(ValueError, match="expected a layer with a norm"):
        sx.utils.remove_norm(layer)


@pytest.mark.parametrize(("kind", "norm"), [("linear", "weight_norm"), ("conv2d", "spectral_norm")])
def test_a_compiled_layer_with_a_norm(kind, norm):
    """Watched, in eval mode, where sigma's vectors stay; and the buffers are written in place, as by DDP."""
    torch._dynamo.reset()
    layer, x = NORMS[norm](made(kind, "csr")).eval(), KINDS[kind].input().double()
    compiled, results = torch.compile(layer, backend="aot_eager", fullgraph=True), []
    for run in (layer, compiled):
        layer.zero_grad()
        sink = GradientTotal(layer.weight, layer.product)
        layer.watch(sink)
        results.append((*passes(run, x), layer.weight.grad, sink.total))
        assert layer.unwatch().passes == 1
    torch.testing.assert_close(results[1], results[0], **CLOSE)
    for name, buffer in made(kind, "csr").pattern.buffers.items():
        layer.get_buffer(name).copy_(buffer)
    torch.testing.assert_close(compiled(x), layer(x), **CLOSE)


@pytest.mark.parametrize("norm", NORMS)
def test_a_layer_with_a_norm_is_regrown(norm):
    model = nn.Sequential(NORMS[norm](sx.SparseLinear(12, 9, sparsity=0.6)), nn.Tanh(), sx.SparseLinear(9, 3))
    optimizer = torch.optim.SGD(sx.param_groups(model, 1e-2), lr=0.1, momentum=0.9)
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=2), total_steps=9)
    before, losses = model[0].mask(), []
    x, target = torch.randn(32, 12), torch.randn(32, 3)
    for _ in range(9):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert not torch.equal(model[0].mask(), before)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", [parametrizations.spectral_norm, spectral_norm, parametrizations.weight_norm, weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_norms_of_a_flat_weight_are_refused(layout, function):
    layer = function(sx.SparseLinear(12, 9, layout=layout))
    sentence = (
        rf"expected a parametrization that works entry by entry, got torch's {function.__name__}, .* use sparse_ext.utils"
    )
    with pytest.raises(TypeError, match=sentence):
        layer(torch.randn(4, 12))


def test_a_parametrization_by_entries_is_not():
    """One norm of all entries is one too."""
    layer = sx.SparseLinear(12, 9)
    dense, x = parametrizations.weight_norm(layer.to_dense(), dim=None), torch.randn(4, 12)
    torch.testing.assert_close(parametrizations.weight_norm(layer, dim=None)(x), dense(x), **CLOSE)
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_initialisers(layout, kind):
    """The matrix's values at the positions, which stay."""
    layer = KINDS[kind].made(layout=layout)
    mask, shape = layer.mask(), layer.product.weight_shape
    want = torch.arange(1.0, 1 + mask.numel()).view(shape)
    sx.utils.init_(layer, lambda dense: dense.copy_(want), scaled=False)
    assert torch.equal(layer.mask(), mask)
    torch.testing.assert_close(layer.dense_weight(), want * mask)
    sx.utils.init_(layer, nn.init.constant_, 2.0)
    scale = layer.density**-0.5 if layer.chosen_by is None else 1.0
    torch.testing.assert_close(layer.dense_weight(), 2.0 * scale * mask)
    assert torch.equal(layer.weight[layer.slots() < 0], torch.zeros(int((layer.slots() < 0).sum())))


def test_initialised_outputs_have_the_dense_scale():
    layer, dense, x = sx.SparseLinear(512, 512), nn.Linear(512, 512), torch.randn(256, 512)
    sx.utils.init_(layer, nn.init.kaiming_normal_, nonlinearity="relu")
    nn.init.kaiming_normal_(dense.weight, nonlinearity="relu")
    with torch.no_grad():
        torch.testing.assert_close(layer(x).var(), dense(x).var(), **STATISTICAL)


def test_wrong_arguments():
    for function in (sx.utils.spectral_norm, sx.utils.weight_norm, lambda layer: sx.utils.init_(layer, nn.init.zeros_)):
        with pytest.raises(TypeError, match="expected a sparse layer, got Linear; for dense layers there is torch's own"):
            function(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="expected n_power_iterations of at least 1, got 0"):
        sx.utils.spectral_norm(sx.SparseLinear(4, 3), n_power_iterations=0)
    with pytest.raises(ValueError, match="expected a packed weight, got a dense one"):
        sx.utils.weight_norm(sx.SparseLinear(8, 4, layout="2:4", capacity=1.0))
