"""Top-KAST equals its definition (reference/methods.md 2.4) on a dense model in plain PyTorch, and by hand."""

import copy
import math

import pytest
import torch
from masked import NETWORKS, OPTIMIZERS, data, mask_of, ranked
from torch import nn
from torch.func import functional_call

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

EXTRA, INTERVAL, PENALTY = 0.15, 3, 2e-2


class Definition:
    """Dense weights: products take A, gradients and optimizer steps reach B."""

    def __init__(self, model, weights, densities, optimizer, norm):
        self.model, self.densities, self.norm = model, densities, norm
        for name, weight in weights.items():
            model.get_submodule(name).weight.data.copy_(weight)
        self.optimizer = optimizer(model.parameters())
        self.choose()

    def weight(self, name):
        return self.model.get_submodule(name).weight

    @torch.no_grad()
    def choose(self):
        self.a, self.b = {}, {}
        for name, density in self.densities.items():
            weight = self.weight(name)
            order = ranked(weight.abs(), torch.ones_like(weight, dtype=torch.bool))
            count = round(density * weight.numel())
            self.a[name] = mask_of(order[:count], weight)
            self.b[name] = mask_of(order[: count + round(EXTRA * weight.numel())], weight)

    def step(self, step):
        x, y = data(step)
        self.optimizer.zero_grad()
        used = {f"{n}.weight": (self.weight(n).detach() * a).requires_grad_() for n, a in self.a.items()}
        nn.functional.cross_entropy(functional_call(self.model, used, (x,)), y).backward()
        kept = {}
        for name, a in self.a.items():
            weight, b, density = self.weight(name), self.b[name], int(a.sum()) / a.numel()
            w = weight.detach()
            penalty = PENALTY * (w.sign() if self.norm == "l1" else w)
            weight.grad = (used[f"{name}.weight"].grad + torch.where(a, penalty, penalty / density)) * b
            state = {k: v.clone() for k, v in self.optimizer.state[weight].items() if v is not None and v.dim()}
            kept[name] = w.clone(), state
        self.optimizer.step()
        with torch.no_grad():
            for name, (before, state) in kept.items():
                weight, b = self.weight(name), self.b[name]
                weight.copy_(torch.where(b, weight, before))
                for key, value in self.optimizer.state[weight].items():
                    if value is not None and value.dim():
                        value.copy_(torch.where(b, value, state.get(key, torch.zeros_like(value))))
        if step % INTERVAL == 0:
            self.choose()


def build(network, layout, **choices):
    torch.manual_seed(0)
    method = sx.TopKAST(extra=EXTRA, update_interval=INTERVAL, penalty=PENALTY, **choices)
    dense = NETWORKS[network]().double()
    model = sx.sparsify_(copy.deepcopy(dense), 0.75, layout=layout, method=method, init="masked", distribution="uniform")
    return dense, model, method


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("layout", ["csr", "masked"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_equals_its_definition(network, optimizer, layout, norm):
    dense, model, method = build(network, layout, norm=norm)
    layers, own = sparse_layers(model), OPTIMIZERS[optimizer](model.parameters())
    sparsifier = sx.Sparsifier(model, own, method, total_steps=40)
    weights = {name: layer.weight.detach().view(layer.product.weight_shape) for name, layer in layers.items()}
    definition = Definition(dense, weights, {n: layer.density for n, layer in layers.items()}, OPTIMIZERS[optimizer], norm)
    history = []
    for step in range(1, 31):
        x, y = data(step)
        nn.functional.cross_entropy(model(x), y).backward()
        own.step()
        assert sparsifier.step() == (step % INTERVAL == 0)
        own.zero_grad()
        definition.step(step)
        for managed in sparsifier._layers:
            assert torch.equal(managed.layer.mask(), definition.a[managed.name])
            assert torch.equal(managed.part.trained, definition.b[managed.name].flatten())
            shape = managed.layer.product.weight_shape
            torch.testing.assert_close(managed.layer.weight.detach().view(shape), definition.weight(managed.name).detach())
        history.append(str([mask.flatten().tolist() for mask in (*definition.a.values(), *definition.b.values())]))
    assert len(set(history)) > 5


def hand(norm, penalty):
    """0.5 -3 2 -1 | 4 0.1 -0.2 0: A is the largest quarter, B half."""
    dense = nn.Linear(4, 2, bias=False)
    dense.weight.data = torch.tensor([[0.5, -3.0, 2.0, -1.0], [4.0, 0.1, -0.2, 0.0]])
    model = nn.Sequential(dense)
    method = sx.TopKAST(extra=0.25, update_interval=2, penalty=penalty, norm=norm)
    sx.sparsify_(model, 0.75, layout="csr", method=method, init="magnitude", distribution="uniform")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=10)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_hand_case(norm):
    model, optimizer, sparsifier = hand(norm, 0.25)
    assert model[0].dense_weight().tolist() == [[0, -3, 0, 0], [4, 0, 0, 0]]
    (model(torch.eye(4)) * 0.5).sum().backward()  # every gradient is 0.5; outside B it is not computed
    assert model[0].weight.grad.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0, 0, 0]
    optimizer.step()
    # -3 - 0.5 + 0.25; 2 - 0.5 - 0.25 / D, with D = 0.25; -1 - 0.5 + 1; 4 - 0.5 - 0.25. Of l2: times |w|.
    expected = {"l1": [0.5, -3.25, 0.5, -0.5, 3.25, 0.1, -0.2, 0], "l2": [0.5, -2.75, -0.5, -0.5, 2.5, 0.1, -0.2, 0]}[norm]
    torch.testing.assert_close(model[0].weight.detach(), torch.tensor(expected))
    optimizer.zero_grad()
    assert not sparsifier.step()
    sparsifier.step()
    trained = sparsifier._layers[0].part.trained.nonzero().flatten().tolist()
    assert trained == [0, 1, 2, 4]  # ties go to the lower index


def test_forward_and_gradients_cost_their_shares():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    method = sx.TopKAST(extra=0.2)
    sx.sparsify_(model, 0.9, layout="csr", method=method)
    sparsifier = sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=10)
    x = torch.randn(32, 64, requires_grad=True)
    used = round(0.1 * 4096)
    trained = used + round(0.2 * 4096)
    assert sx.count_flops(lambda: model(x).sum().backward()) == 2 * 32 * (2 * used + trained)
    assert sparsifier.report().layers[0].trained == pytest.approx(trained / 4096)


@pytest.mark.parametrize("extra", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("layout", ["csr", "masked", "2:4"])
def test_sets_have_exact_counts(layout, extra):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))
    method = sx.TopKAST(extra=extra, update_interval=1)
    sx.sparsify_(model, 0.5, layout=layout, method=method, distribution="uniform")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=20)
    for _ in range(8):
        model(torch.randn(8, 16)).square().mean().backward()
        before = [(m.layer.weight.detach().clone(), m.part.trained) for m in sparsifier._layers]
        optimizer.step()
        for managed, (weight, trained) in zip(sparsifier._layers, before, strict=True):
            assert torch.equal(managed.layer.weight[~trained], weight[~trained])
        sparsifier.step()
        optimizer.zero_grad()
        for managed in sparsifier._layers:
            positions = managed.layer.weight.numel()
            assert managed.layer.nnz == positions // 2
            assert int(managed.part.trained.sum()) == min(positions, positions // 2 + round(extra * positions))
            assert managed.part.trained[managed.layer.mask().flatten()].all()
            outside = managed.layer.weight.detach().abs()[~managed.part.trained]
            chosen = managed.layer.weight.detach().abs()[managed.part.trained & ~managed.layer.mask().flatten()]
            assert not len(outside) or not len(chosen) or outside.max() <= chosen.min()


@pytest.mark.parametrize(
    ("kind", "choices", "message"),
    [
        (sx.TopKAST, {"extra": 1.5}, r"expected extra in \[0, 1\], got 1.5"),
        (sx.TopKAST, {"update_interval": 0}, "whole update_interval of at least 1, got 0"),
        (sx.TopKAST, {"penalty": math.nan}, "finite penalty of at least 0, got nan"),
        (sx.TopKAST, {"norm": "l3"}, "norm to be one of 'l1', 'l2', got 'l3'"),
        (sx.SAT, {"active": 0.0}, r"active in \(0, 1\], got 0.0"),
        (sx.SAT, {"update_interval": 2.5}, "whole update_interval of at least 1, got 2.5"),
        (sx.SAT, {"granularity": "tile"}, "granularity to be one of 'element', 'row', 'layer', got 'tile'"),
        (sx.SAT, {"score": "random"}, "score to be one of 'taylor', 'square', got 'random'"),
        (sx.SAT, {"smoothing": 1.0}, r"smoothing in \[0, 1\), got 1.0"),
        (sx.SAT, {"hysteresis": -0.1}, r"hysteresis in \[0, 1\), got -0.1"),
    ],
)
def test_arguments_are_checked(kind, choices, message):
    with pytest.raises(ValueError, match=message):
        kind(**choices)


def test_a_layout_without_rules_is_refused():
    model = nn.Sequential(sx.SparseLinear(8, 8, layout="dense"))
    with pytest.raises(ValueError, match="TopKAST chooses 'largest' of dense weights: expected layers of layout"):
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sx.TopKAST(), total_steps=9)
