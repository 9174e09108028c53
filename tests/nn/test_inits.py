"""The values that `sparsify_` begins with, at the dense layer's scale or the model's own; and a word before they are lost."""

import warnings

import pytest
import torch
from kinds import KINDS
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS


def scale(weight, positions):
    """What decides how large outputs are: the sum of squares over the number of outputs."""
    return float(weight.detach().double().square().sum()) / positions


@pytest.mark.parametrize("gain", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_variance_keeps_the_dense_layers_scale(gain, sparsity):
    """`initializer_range`, small residual initialisations, layers that begin with zeros."""
    model = nn.Sequential(nn.Linear(200, 100), nn.Conv2d(20, 30, 3))
    for layer in model:
        nn.init.normal_(layer.weight, std=gain)
    want = [scale(layer.weight, 1) for layer in model]
    sx.sparsify_(model, sparsity, distribution="uniform", layout="csr")
    assert [scale(layer.weight, 1) for layer in model] == pytest.approx(want, rel=0.15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_dense_layers_scale(layout):
    model = nn.Sequential(nn.Linear(200, 100))
    nn.init.normal_(model[0].weight, std=0.02)
    sx.sparsify_(model, layout=layout)
    assert scale(model[0].dense_weight(), 20000) == pytest.approx(4e-4, rel=0.1)


@pytest.mark.parametrize("gain", [0.0, 3.0])
def test_variance_scales_a_dense_weight_too(gain):
    model = nn.Sequential(nn.Linear(64, 64))
    nn.init.normal_(model[0].weight, std=gain)
    sx.sparsify_(model, layout="2:4", method=sx.SRSTE())
    assert scale(model[0].weight, model[0].weight.numel()) == pytest.approx(gain**2, rel=0.1)
    kept = model[0].dense_weight()
    assert torch.equal(kept, kept * model[0].mask())


def test_outputs_stay_as_large():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(256, 256))
    nn.init.normal_(dense[0].weight, std=0.02)
    x = torch.randn(64, 256)
    with torch.no_grad():
        want = float(dense(x).std())
        assert float(sx.sparsify_(dense, 0.9)(x).std()) == pytest.approx(want, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_magnitude_keeps_the_largest_weights(kind):
    dense = KINDS[kind].made_dense()
    (layer,) = sx.sparsify_(nn.Sequential(dense), 0.75, layout="csr", init="magnitude")
    assert layer.nnz == 27
    assert torch.equal(layer.dense_weight(), KINDS[kind].sparse.from_dense(dense, sparsity=0.75).dense_weight())
    kept = dense.weight.detach()[layer.mask()].abs()
    assert kept.min() >= dense.weight.detach()[~layer.mask()].abs().max()
    assert torch.equal(layer.bias, dense.bias)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("init", ["variance", "masked", "magnitude"])
def test_weights_that_are_not_finite_are_refused(init, value):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight.data[2, 3] = value
    with pytest.raises(ValueError, match=r"expected 1\.weight to be finite.*load the model first"):
        sx.sparsify_(model, 0.5, init=init)
    assert all(type(layer) is nn.Linear for layer in model)


# ---- a trained model -------------------------------------------------------------------------------------------------


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 32), nn.LayerNorm(32))


def with_gradients():
    model = plain().eval()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    return model


def after_batches():
    model = plain()
    model(torch.randn(2, 3, 4, 4))
    return model


def with_other_norms():
    model = plain()
    model[4].load_state_dict({"weight": torch.rand(32), "bias": torch.rand(32)})
    return model


def after_many_steps():
    model = nn.Sequential(nn.Linear(16, 16))
    for _ in range(25):
        with torch.no_grad():
            model[0].weight.add_(0.01)
    return model


def from_pretrained():
    model = plain()
    model[3].weight._is_hf_initialized = True  # what transformers sets on what it loads
    return model


TRAINED = {
    with_gradients: "has a gradient",
    after_batches: "BatchNorm has seen batches",
    with_other_norms: "weights of a LayerNorm differ",
    after_many_steps: "written [0-9]+ times",
    from_pretrained: "from_pretrained has loaded",
}


@pytest.mark.parametrize("make", TRAINED, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("init", "fate"), [("variance", "replaces them by new random"), ("masked", "keeps a random part")])
def test_a_trained_model_is_not_thrown_away_without_a_word(make, init, fate):
    with pytest.warns(UserWarning, match=f"seem trained or loaded .*{TRAINED[make]}.*init='{init}' {fate}.*init='magnitude'"):
        sx.sparsify_(make(), 0.5, init=init)


def initialised(model):
    """By hand, as DCGAN and vision transformers are."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return model


FRESH = {
    "plain": lambda: sx.sparsify_(plain(), 0.5),
    "initialised by hand": lambda: sx.sparsify_(initialised(plain()), 0.5),
    "on meta": lambda: sx.sparsify_(plain().to("meta"), 0.5),
    "trained, magnitude": lambda: sx.sparsify_(with_gradients(), 0.5, init="magnitude"),
    "trained, a dense weight": lambda: sx.sparsify_(
        nn.Sequential(with_gradients()[3]), layout="2:4", method=sx.SRSTE(), init="masked"
    ),
    "trained, no zeros": lambda: sx.sparsify_(with_gradients(), 0.0),
}


@pytest.mark.parametrize("case", FRESH)
def test_nothing_is_said_where_nothing_is_lost(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FRESH[case]()
