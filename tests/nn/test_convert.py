"""sparsify_ and densify_: which layers, how dense, what stays as it was, and what is left alone with a sentence."""

import copy
import warnings

import pytest
import torch
from cases import TOLERANCE
from shares import SHARES
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparse_ext import SparseLinear, densify_, layer_densities, sparsify_
from sparse_ext.nn import sparse_layers
from sparse_ext.nn.distributions import DISTRIBUTIONS, densities

X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def mlp(**options):
    layers = (
        nn.Linear(16, 64, **options),
        nn.ReLU(),
        nn.Linear(64, 64, **options),
        nn.ReLU(),
        nn.Linear(64, 10, **options),
    )
    return nn.Sequential(*layers)


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- sharing a sparsity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_densities_by_hand(distribution):
    for shapes, sparsity, expected in SHARES[distribution]:
        assert densities(shapes, sparsity, distribution) == pytest.approx(expected, rel=1e-12)


MANY = {f"l{i}": (2 ** (i % 5) + i, 3 + 7 * i) for i in range(12)}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_total_is_exact_and_densities_fall_with_sparsity(distribution):
    """From no zeros at all, where every layer overflows in turn, to 99.9 %."""
    sizes = {name: rows * cols for name, (rows, cols) in MANY.items()}
    before, overflowing = dict.fromkeys(MANY, 1.0), set()
    for sparsity in torch.linspace(0, 0.999, 200).tolist():
        shares = densities(MANY, sparsity, distribution)
        overflowing.add(sum(share == 1.0 for share in shares.values()))
        assert all(0.0 <= share <= 1.0 for share in shares.values())
        wanted = sum(size - int(sparsity * size) for size in sizes.values())  # methods.md 2.0: floor for each layer
        slack = len(MANY) if distribution == "uniform" else 1e-6
        assert sum(shares[name] * sizes[name] for name in MANY) == pytest.approx(wanted, abs=slack)
        # The floors move a layer's share by a few positions.
        assert all(shares[name] <= before[name] + len(MANY) / min(sizes.values()) for name in MANY)
        assert sum(shares.values()) <= sum(before.values()) + 0.05
        before = shares
    assert distribution == "uniform" or len(overflowing) >= 8


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.98])
def test_layers_get_the_densities_announced(distribution, sparsity):
    model = mlp()
    announced = layer_densities(model, sparsity, distribution)
    assert set(announced) == {"0", "2", "4"}
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in model)
    sparsify_(model, sparsity, distribution=distribution)
    nnz = 0
    for name, density in announced.items():
        layer = model.get_submodule(name)
        size = layer.in_features * layer.out_features
        assert isinstance(layer, SparseLinear) == (density < 1.0)
        nnz += layer.nnz if density < 1.0 else size
        assert density == 1.0 or layer.nnz == round(density * size)
    assert abs(nnz - (1 - sparsity) * 5760) <= 3 * 1.5


def test_defaults_are_ninety_percent_and_erk():
    model = sparsify_(mlp())
    wanted = layer_densities(mlp(), 0.9, "erk")
    assert {name: layer.nnz for name, layer in sparse_layers(model).items()} == {
        name: round(wanted[name] * size) for name, size in (("0", 1024), ("2", 4096), ("4", 640))
    }


def test_no_sparsity_changes_nothing(no_warnings):
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in sparsify_(mlp(), 0.0))


# ---- what is carried over --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["variance", "masked"])
def test_initial_values(init):
    model = mlp()
    dense = copy.deepcopy(model)
    assert sparsify_(model, 0.9, init=init) is model
    for name, layer in sparse_layers(model).items():
        twin = dense.get_submodule(name)
        masked = twin.weight.detach() * layer.mask()
        assert torch.equal(layer.bias, twin.bias)
        assert torch.equal(layer.dense_weight(), masked) == (init == "masked")
        # Uniform with the dense layer's mean square, for the sparse fan-in; its largest of >= 30 values is near the bound.
        bound = (3 * float(twin.weight.detach().square().sum()) / layer.nnz) ** 0.5
        assert 0.85 < bound / (layer.out_features / layer.nnz) ** 0.5 < 1.15  # as a new layer's
        assert init == "masked" or 0.8 * bound < layer.weight.abs().max() <= 1.0001 * bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_mode_and_frozen_parameters_are_kept(dtype):
    model = mlp(dtype=dtype).eval()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    sparsify_(model, 0.9)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not any(m.training for m in model.modules())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"0.weight", "2.bias"}


def test_a_layer_without_bias_stays_one():
    assert all(layer.bias is None for layer in sparse_layers(sparsify_(mlp(bias=False), 0.9)).values())


def test_a_meta_model_is_sparsified_without_memory():
    model = sparsify_(mlp(device="meta"), 0.9)
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    for layer in sparse_layers(model).values():
        layer.reset_parameters()
    assert model(X).isfinite().all()


def test_densify_is_the_way_back():
    model = sparsify_(mlp(), 0.8)
    y = model(X)
    assert densify_(model) is model
    assert not sparse_layers(model)
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in model)
    torch.testing.assert_close(model(X), y, **TOLERANCE[torch.float32])
    assert int((model[2].weight != 0).sum()) == sparsify_(mlp(), 0.8)[2].nnz


def test_nested_names():
    model = nn.ModuleDict({"head": nn.ModuleList([nn.Linear(16, 64)]), "body": nn.Sequential(mlp())})
    sparsify_(model, 0.9)
    assert set(sparse_layers(model)) == {"head.0", "body.0.0", "body.0.2", "body.0.4"}
    densify_(model)
    assert not sparse_layers(model)


# ---- what is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), []),
        (("0",), ["0"]),
        (("[02]",), ["0", "2"]),
        ("4", ["4"]),
        (["*"], ["0", "2", "4"]),
    ],
    ids=str,
)
def test_exclude_takes_names_and_globs(exclude, left, no_warnings):
    model = sparsify_(mlp(), 0.9, exclude=exclude)
    assert [name for name, module in model.named_modules() if type(module) is nn.Linear] == left
    assert set(layer_densities(mlp(), 0.9, exclude=exclude)) == {"0", "2", "4"} - set(left)


class Tied(nn.Module):
    """Two layers with one weight, as a language model's embedding and head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.body, self.head = nn.Linear(32, 32), nn.Linear(32, 64, bias=False)
        self.head.weight = self.embedding.weight


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.body, self.first = nn.Linear(32, 32), nn.Linear(32, 32)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(self.body(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.attention = nn.Linear(32, 32), nn.MultiheadAttention(32, 4, batch_first=True)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_first(layer):
    return nn.ModuleDict({"odd": layer, "body": nn.Linear(32, 32)})


LEFT_ALONE = {
    "tied": (Tied, "head", "tied"),
    "shared": (Shared, "first", "."),
    "attention": (Attention, "attention.out_proj", "MultiheadAttention"),
    "parametrized": (lambda: with_first(parametrizations.weight_norm(nn.Linear(32, 32))), "odd", "parametrized"),
    "spectral_norm": (lambda: with_first(nn.utils.spectral_norm(nn.Linear(32, 32))), "odd", "."),
    "pruned": (lambda: with_first(prune.random_unstructured(nn.Linear(32, 32), "weight", 0.5)), "odd", "."),
    "subclass": (lambda: with_first(Doubled(32, 32)), "odd", "Doubled is a subclass"),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_cannot_be_replaced_is_named(case):
    make, name, reason = LEFT_ALONE[case]
    model = make()
    before = model.get_submodule(name)
    with pytest.warns(UserWarning, match=f"sparsify_: '{name}' stays dense: .*{reason}"):
        sparsify_(model, 0.9)
    assert model.get_submodule(name) is before
    assert set(sparse_layers(model)) == {"body"}


def test_sharing_survives_conversion():
    """Whatever sparsify_ decides about a layer with two names, both names still name one layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sparsify_(Shared(), 0.9)
    assert model.first is model.second
    model.first = model.second = SparseLinear(32, 32)
    densify_(model)
    assert model.first is model.second
    assert not sparse_layers(model)


def test_excluded_layers_are_not_warned_about(no_warnings):
    sparsify_(Attention(), 0.9, exclude=("attention*",))


# ---- transformers ----------------------------------------------------------------------------------------------------


def encoder(**options):
    options = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoderLayer(**options)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:sparsify_", "ignore:.*nested tensors")
def test_a_transformer_encoder_layer_works_in_every_mode(padded, activation, stacked):
    model = encoder(activation=activation)
    if stacked:
        model = nn.TransformerEncoder(model, 2)
    sparsify_(model, 0.5)
    assert len(sparse_layers(model)) == (4 if stacked else 2)
    dense = densify_(copy.deepcopy(model))
    x = torch.randn(3, 7, 32)
    padding = torch.arange(7).expand(3, 7) >= torch.tensor([[7], [4], [2]]) if padded else None
    for train in (True, False):
        model.train(train)
        dense.train(train)
        y, want = (m(x, src_key_padding_mask=padding) for m in (model, dense))
        with torch.no_grad():
            fast = model(x, src_key_padding_mask=padding)
        kept = slice(None) if padding is None else ~padding
        torch.testing.assert_close(y[kept], want[kept], **TOLERANCE[torch.float32])
        torch.testing.assert_close(fast[kept], want[kept], **TOLERANCE[torch.float32])
        if train:
            for result in (y, want):
                result[kept].square().sum().backward()
            name = "layers.0.self_attn.in_proj_weight" if stacked else "self_attn.in_proj_weight"
            torch.testing.assert_close(
                model.get_parameter(name).grad, dense.get_parameter(name).grad, **TOLERANCE[torch.float32]
            )


@pytest.mark.filterwarnings("ignore:sparsify_")
def test_a_copied_encoder_layer_keeps_off_the_fused_path():
    model = copy.deepcopy(sparsify_(encoder(), 0.5)).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 5, 32)).isfinite().all()
