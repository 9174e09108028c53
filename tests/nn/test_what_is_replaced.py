"""What `sparsify_` replaces and what it leaves dense: names that match nothing, models without layers, a second conversion."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def two_parts():
    body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32))
    return nn.ModuleDict({"backbone": body, "classifier": nn.Sequential(nn.Dropout(), nn.Linear(32, 10))})


# ---- exclude ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", ["classifier", "classifier.1", "class*", "*.1", ["classifier", "backbone.1"]])
def test_a_containers_name_excludes_its_layers(exclude, no_warnings):
    model = two_parts()
    assert set(sx.layer_densities(model, 0.5, exclude=exclude)) == {"backbone.0", "backbone.2"}
    assert set(sparse_layers(sx.sparsify_(model, 0.5, distribution="uniform", exclude=exclude))) == {"backbone.0", "backbone.2"}


@pytest.mark.parametrize("call", [sx.sparsify_, sx.layer_densities])
@pytest.mark.parametrize(
    ("exclude", "advice"),
    [
        ("clasifier", "did you mean 'classifier'"),
        (["backbone", "backbone.3"], "did you mean 'backbone"),
        ("1", r"did you mean '.*\.1'"),
        ("encoder.clasifier", "did you mean 'classifier'"),
        ("zzz*", "named_modules"),
        ("", "named_modules"),
    ],
    ids=str,
)
def test_a_name_that_matches_nothing_is_refused(exclude, advice, call):
    model = two_parts()
    wrong = exclude if isinstance(exclude, str) else exclude[-1]
    sentence = f"expected exclude to name modules of the model, got {wrong!r}, which matches none; "
    with pytest.raises(ValueError, match=f"{re.escape(sentence)}.*{advice}"):
        call(model, 0.5, exclude=exclude)
    assert not sparse_layers(model)


def test_modules_are_no_names():
    model = two_parts()
    with pytest.raises(TypeError, match=r"exclude to hold names of layers.* got Sequential"):
        sx.sparsify_(model, 0.5, exclude=[model["classifier"]])


# ---- nothing to replace ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: nn.Sequential(nn.Bilinear(4, 4, 4), nn.GRU(4, 4)), "those of Bilinear, GRU; register_layer"),
        (lambda: nn.Sequential(nn.ReLU()), "it has no matrix weights"),
    ],
)
@pytest.mark.parametrize("call", [sx.sparsify_, sx.layer_densities])
def test_a_model_without_layers_is_refused(model, found, call):
    with pytest.raises(ValueError, match=f"expected a model with layers to replace .*Linear, Conv1d.*got none; .*{found}"):
        call(model(), 0.5)


def test_a_converted_model_is_not_converted_again():
    model = sx.sparsify_(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)), 0.9, distribution="uniform")
    before = dict(sparse_layers(model))
    with pytest.raises(ValueError, match=r"sparse already: '0' \(90.0% zeros\), '1' \(90.0% zeros\); densify_ it first"):
        sx.sparsify_(model, 0.95)
    model.append(nn.Linear(10, 10))
    with pytest.warns(UserWarning, match=r"sparse already, and kept as they are: '0' \(90.0% zeros\).*densify_"):
        sx.sparsify_(model, 0.5)
    assert [before.get(name) is layer for name, layer in sparse_layers(model).items()] == [True, True, False]
    assert model[2].nnz == 50


def test_a_sparsity_that_leaves_no_zeros_is_told():
    with pytest.warns(UserWarning, match="no layer becomes sparse: a sparsity of 0.1"):
        sx.sparsify_(nn.Sequential(nn.Linear(2, 2)), 0.1)


def test_a_layer_without_entries_gets_one_per_row():
    """One that gets few keeps its share."""
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 3), nn.Linear(100, 100))
    with pytest.warns(UserWarning, match="would have no weights") as told:
        announced = sx.layer_densities(model, 0.9998, "uniform")
    assert [str(one.message) for one in told] == [
        "sparsify_: '0' would have no weights, 0.0002 of 200; it gets one for each output, 10 in all",
        "sparsify_: '1' would have no weights, 0.0002 of 30; it gets one for each output, 3 in all",
    ]
    with pytest.warns(UserWarning, match="would have no weights"):
        sx.sparsify_(model, 0.9998, distribution="uniform")
    assert [layer.nnz for layer in model] == [10, 3, 2]
    assert announced == pytest.approx({"0": 1 / 20, "1": 1 / 10, "2": 2e-4})


def test_much_that_stays_dense_is_told_once():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.up_bias = nn.Parameter(torch.randn(4, 16, 32)), nn.Parameter(torch.zeros(4, 32))

    model = nn.ModuleDict({"experts": Experts(), "words": nn.Embedding(99, 99), "out": nn.Linear(16, 16)})
    with pytest.warns(UserWarning, match="stay dense") as told:
        sx.sparsify_(model, 0.5)
    assert [str(one.message) for one in told] == [
        "sparsify_: 89% of matrix weights stay dense: Experts (2048); summary(model) lists them with the reasons"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sx.sparsify_(sx.densify_(model), 0.5, exclude="experts")


# ---- modules that read a child's weight ------------------------------------------------------------------------------


class Reads(nn.Module):
    """What a subclass's forward pass does with the weight of `fc`."""

    def __init__(self):
        super().__init__()
        self.fc, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        nn.init.normal_(self.other.weight)  # an initialisation

    def tie_weights(self):
        return self.other.weight


class Directly(Reads):
    def forward(self, x):
        return F.linear(x, self.fc.weight, self.fc.bias)


class Inherited(Directly):
    pass


class ByAnotherName(Reads):
    def forward(self, x):
        fc = self.fc
        return x @ fc.weight.t()


class InAProperty(Reads):
    @property
    def matrix(self):
        return [getattr(self.fc, "weight"), self.fc.weight][1]  # noqa: B009

    def forward(self, x):
        return x @ self.matrix


class OneOfAList(Reads):
    def forward(self, x):
        return x @ self.layers[0].weight


class EveryOneOfAList(Reads):
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = x @ layer.weight + i
        return x


class InAComprehension(Reads):
    def forward(self, x):
        return x @ torch.cat([layer.weight for layer in self.layers])[:16]


class OfADict(Reads):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"0": nn.Linear(16, 16), "1": nn.Linear(16, 16)})

    def forward(self, x):
        return x @ torch.cat([layer.weight for _, layer in self.layers.items()])[:16]


class Harmlessly(Reads):
    def forward(self, x):
        if isinstance(self.fc.weight, torch.Tensor) and x.dtype != self.fc.weight.dtype:
            x = x.to(self.fc.weight.dtype).to(self.fc.weight.device)
        return self.fc(x)


READ = {
    Directly: {"m.fc"},
    Inherited: {"m.fc"},
    ByAnotherName: {"m.fc"},
    InAProperty: {"m.fc"},
    OneOfAList: {"m.layers.0"},
    EveryOneOfAList: {"m.layers.0", "m.layers.1"},
    InAComprehension: {"m.layers.0", "m.layers.1"},
    OfADict: {"m.layers.0", "m.layers.1"},
    Harmlessly: set(),
}


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_a_layer_whose_weight_is_read_stays_dense(kind):
    model = nn.ModuleDict({"m": kind(), "plain": nn.Linear(16, 16)})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sx.sparsify_(model, 0.75, distribution="uniform", exclude=())
    every = {"m.fc", "m.other", "m.layers.0", "m.layers.1", "plain"}
    assert every - set(sparse_layers(model)) == READ[kind]
    sentences = [str(one.message) for one in told if " stays dense: " in str(one.message)]
    assert len(sentences) == len(READ[kind])
    assert all(f"{kind.__name__}." in s or "Directly." in s or "Inherited." in s for s in sentences)
    assert model["m"](X).shape == (3, 16)


# ---- what is part of a module beside its class -----------------------------------------------------------------------


def test_a_layer_with_a_forward_of_its_own_stays_dense():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    original = model[0].forward
    model[0].forward = lambda x: 2 * original(x)
    with pytest.warns(UserWarning, match="'0' stays dense: its forward is another function than its class's"):
        sx.sparsify_(model, 0.5)
    with pytest.raises(TypeError, match="got Linear with a forward pass of its own, which would be lost"):
        sx.SparseLinear.from_dense(model[0])


def test_an_encoder_may_be_excluded_whole(no_warnings):
    """Its attention's own parameters, too, are then asked for."""
    model = nn.ModuleDict({"encoder": nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), "out": nn.Linear(16, 16)})
    sx.sparsify_(model, 0.5, exclude="encoder")
    assert set(sparse_layers(model)) == {"out"}
