"""`register_layer`: rows of the conversion table, of our own, of a user, and of packages that are not imported."""

import copy
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from cases import TOLERANCE
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import SparseGraphLinear, SparseTransposedLinear, sparse_layers
from sparse_ext.nn.table import REPLACEMENTS

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"
CLOSE = TOLERANCE[torch.float32]


@pytest.fixture(autouse=True)
def own_table():
    """Rows that a test adds are gone after it."""
    rows = dict(REPLACEMENTS)
    yield
    REPLACEMENTS.clear()
    REPLACEMENTS.update(rows)


# ---- rows of packages that are not imported ------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As in transformers.pytorch_utils."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Linear(nn.Module):
    """As in torch_geometric.nn.dense.linear."""

    def __init__(self, in_channels, out_channels, bias=True, weight_initializer=None, bias_initializer=None):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight_initializer, self.bias_initializer = weight_initializer, bias_initializer
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.randn(out_channels)) if bias else None

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


OTHERS = {
    "transformers.pytorch_utils": (Conv1D, SparseTransposedLinear, lambda n, m: Conv1D(m, n)),
    "torch_geometric.nn.dense.linear": (Linear, SparseGraphLinear, lambda n, m: Linear(n, m, True, "glorot", "zeros")),
}


@pytest.fixture(params=OTHERS)
def other(request, monkeypatch):
    """(dense class, sparse class, maker of a dense layer), where the package is one that holds this class alone."""
    kind, sparse, make = OTHERS[request.param]
    package = types.ModuleType(request.param)
    setattr(package, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, request.param, package)
    monkeypatch.setattr(kind, "__module__", request.param)
    return kind, sparse, make


@pytest.mark.parametrize("init", ["variance", "masked", "magnitude"])
def test_layers_of_other_packages_and_back(other, init):
    kind, sparse, make = other
    model, x = nn.Sequential(make(16, 16), nn.ReLU(), make(16, 24)), torch.randn(2, 3, 16)
    dense = copy.deepcopy(model)
    sx.sparsify_(model, 0.5, init=init)
    assert [type(layer) for layer in sparse_layers(model).values()] == [sparse, sparse]
    assert isinstance(model[0], sx.SparseLinear)
    y = model(x)
    y.sum().backward()
    back = sx.densify_(pickle.loads(pickle.dumps(model)))
    assert [type(layer) for layer in back] == [kind, nn.ReLU, kind]
    assert [layer.weight.shape for layer in back[::2]] == [layer.weight.shape for layer in dense[::2]]
    torch.testing.assert_close(back(x), y, **CLOSE)
    if init != "variance":
        for layer, twin in zip(back[::2], dense[::2], strict=True):
            assert torch.equal(layer.weight, twin.weight * (layer.weight != 0))


def test_values_have_the_dense_layers_scale(other):
    _, _, make = other
    model = nn.Sequential(make(100, 80))
    nn.init.normal_(model[0].weight, std=3.0)
    sx.sparsify_(model, 0.8)
    assert float(model[0].weight.detach().square().sum()) / 8000 == pytest.approx(9, rel=0.1)


def test_masks_and_checkpoints_are_the_dense_layers(other):
    """A square weight fits either way, so a transposed one would load without a word."""
    _, sparse, make = other
    dense, x = make(16, 16), torch.randn(5, 16)
    mask = torch.rand(16, 16) < 0.4
    dense.weight.data *= mask
    for layer in (sparse.from_dense(dense, mask=mask), sparse.from_dense(dense, sparsity=0.5)):
        torch.testing.assert_close(layer(x), dense(x), **CLOSE)
        layer.reset_parameters()
        layer.load_state_dict(dense.state_dict())
        torch.testing.assert_close(layer(x), dense(x), **CLOSE)
        before = copy.deepcopy(layer)
        layer.load_state_dict(layer.state_dict())
        assert torch.equal(layer.weight, before.weight)


def test_their_initialisation_is_kept(other):
    """PyTorch Geometric's models call `reset_parameters`."""
    _, sparse, make = other
    layer = sparse.from_dense(make(300, 200), sparsity=0.9)
    layer.reset_parameters()
    wanted = 0.02**2 if sparse is SparseTransposedLinear else 2 / 500
    assert float(layer.weight.detach().square().sum()) / 60000 == pytest.approx(wanted, rel=0.05)
    assert not layer.bias.any()


def test_no_package_is_imported():
    code = (
        "import sys, torch, sparse_ext as sx\n"
        "sx.sparsify_(torch.nn.Sequential(torch.nn.Linear(8, 8)), 0.5)\n"
        "print(any(name.partition('.')[0] in ('transformers', 'torch_geometric') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_layer_of_the_docs(capsys):
    (code,) = re.findall(r"```python\n((?:(?!```).)*register_layer.*?)```", DOCS.read_text(), re.S)
    names = {}
    exec(compile(code, "extending.md", "exec"), names)
    assert "SparseScaledLinear" in capsys.readouterr().out
    x, model = torch.randn(2, 64), names["model"]
    y = model(x)
    torch.testing.assert_close(sx.densify_(model)(x), y, **CLOSE)
    assert (type(model[0]), model[0].scale) == (names["ScaledLinear"], 0.5)


# ---- a user's rows -------------------------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A subclass with a forward pass and an argument of its own."""

    def __init__(self, in_features, out_features, bias=True, gain=1.0):
        super().__init__(in_features, out_features, bias)
        self.gain = gain

    def forward(self, x):
        return self.gain * super().forward(x)


class SparseScaled(sx.SparseLinear):
    ARGUMENTS = ("in_features", "out_features", "gain")

    def __init__(self, in_features, out_features, bias=True, gain=1.0, **storage):
        super().__init__(in_features, out_features, bias, **storage)
        self.gain = gain

    def forward(self, x):
        return self.gain * super().forward(x)


def test_a_users_layer_is_replaced_once_it_is_registered():
    model, x = nn.Sequential(Scaled(8, 8, gain=3.0), nn.Linear(8, 8)), torch.randn(2, 8)
    with pytest.warns(UserWarning, match="'0' stays dense: Scaled is a subclass with behaviour of its own; register_layer"):
        sx.layer_densities(model, 0.5)
    assert sx.register_layer(Scaled)(SparseScaled) is SparseScaled
    assert sx.register_layer(Scaled, SparseScaled) is SparseScaled  # a second time, as in a notebook
    sx.sparsify_(model, 0.5)
    assert type(model[0]) is SparseScaled
    y = model(x)
    sx.densify_(model)
    assert (type(model[0]), model[0].gain) == (Scaled, 3.0)
    torch.testing.assert_close(model(x), y, **CLOSE)


class Gated(nn.Linear):
    """With a parameter and a buffer of its own."""

    def __init__(self, in_features, out_features, bias=True):
        super().__init__(in_features, out_features, bias)
        self.gate = nn.Parameter(torch.randn(out_features))
        self.register_buffer("shift", torch.randn(out_features))

    def forward(self, x):
        return self.gate * super().forward(x) + self.shift


class SparseGated(sx.SparseLinear):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.gate = nn.Parameter(torch.randn(self.out_features, device=self.weight.device))
        self.register_buffer("shift", torch.randn(self.out_features, device=self.weight.device))

    def forward(self, x):
        return self.gate * super().forward(x) + self.shift


class SparseForgetful(SparseGated):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.other = nn.Parameter(torch.randn(2, device=self.weight.device))


def test_further_parameters_are_copied():
    sx.register_layer(Gated, SparseGated)
    model, x = nn.Sequential(Gated(8, 8), nn.Linear(8, 8)), torch.randn(2, 8)
    model[0].gate.requires_grad_(False)
    twin = SparseGated.from_dense(model[0], sparsity=0.0)
    torch.testing.assert_close(twin(x), model[0](x), **CLOSE)
    assert not twin.gate.requires_grad
    before = copy.deepcopy(model[0].state_dict())
    sx.sparsify_(model, 0.5)
    y = model(x)
    sx.densify_(model)
    assert all(torch.equal(model[0].state_dict()[name], before[name]) for name in ("gate", "shift", "bias"))
    torch.testing.assert_close(model(x), y, **CLOSE)


def test_a_parameter_that_nobody_has_is_missed():
    REPLACEMENTS.pop(Gated, None)
    sx.register_layer(Gated, SparseForgetful)
    model = nn.Sequential(Gated(8, 8))
    with pytest.raises(ValueError, match="expected a Gated with 'other', as SparseForgetful has it"):
        sx.sparsify_(model, 0.5)
    assert type(model[0]) is Gated


@pytest.mark.parametrize(
    ("dense", "sparse", "error", "sentence"),
    [
        (Scaled, sx.SparseLinear, ValueError, "a sparse class of its own for Scaled, got SparseLinear, which replaces Linear"),
        (
            nn.Linear,
            SparseScaled,
            ValueError,
            "expected a class without a replacement, got Linear, which SparseLinear replaces",
        ),
        (Scaled, nn.Linear, TypeError, "expected a class derived from SparseLinear.*got .*Linear"),
        (Scaled(2, 2), SparseScaled, TypeError, "expected the class of a dense module, or its full name.*got Scaled"),
        ("Scaled", SparseScaled, TypeError, "expected the class of a dense module, or its full name.*got 'Scaled'"),
        (SparseScaled, SparseScaled, TypeError, "expected the class of a dense module"),
        (
            "transformers.pytorch_utils.Conv1D",
            type("Mine", (sx.SparseLinear,), {}),
            ValueError,
            "got Conv1D, which SparseTransposedLinear replaces",
        ),
    ],
)
def test_rows_that_cannot_be(dense, sparse, error, sentence):
    rows = dict(REPLACEMENTS)
    with pytest.raises(error, match=sentence):
        sx.register_layer(dense, sparse)
    assert rows == REPLACEMENTS
