"""Growth by the layer's own topology (CHTs): what the score sees, and exact counts where too few positions have one."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training import PATTERNS, active, chosen_layer, mlp

import sparse_ext as sx
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import link_scores
from sparse_ext.train import SIGNALS, LinkPrediction, Signal


class Seen(Signal):
    name = "seen"
    OBSERVES = False

    def score(self):
        self.method.found.append((self.layer.mask(), self.layer.weight()))
        return self.zeros() + 1.0


def update(model, method, seed=0, **choices):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10, seed=seed)
    optimizer.step()
    assert sparsifier.step()
    return sparsifier


@pytest.mark.parametrize("layout", PATTERNS)
def test_the_score_is_that_of_what_is_left(layout):
    """The weakest positions are missing in it, though they may grow again."""
    found = []

    @dataclass(frozen=True)
    class Looks(sx.CHTs):
        signals = (Seen,)
        grow_by = "seen"

    Looks.found = found
    model = nn.Sequential(mlp(layout=layout)[0])
    layer = model[0]
    before, weight = layer.mask(), layer.dense_weight()
    sparsifier = update(model, Looks(0.5, 1, schedule="constant", first_power=1e4, last_power=1e4))
    ((mask, left),) = found
    drop = layer.nnz // 2
    assert not (mask & ~before).any()
    assert int((before & ~mask).sum()) == drop
    assert weight[before & ~mask].abs().max() <= weight[mask].abs().min()
    assert torch.equal(left, weight * mask)
    assert bool((layer.mask() | ~mask).all())
    sparsifier._layers[0].observation.total("seen")
    assert torch.equal(found[1][0], layer.mask())


def test_positions_without_a_score_come_last_and_at_random():
    """Two rows with a common column predict 2 links; 8 grow: these, and 6 of the 32 others, whatever the seed is."""
    weights = torch.zeros(6, 7)
    weights[0, 0], weights[0, 1], weights[1, 1], weights[1, 2] = 1.0, 2.0, 3.0, 4.0
    scores = link_scores(weights != 0)
    assert (scores > 0).nonzero().tolist() == [[0, 2], [1, 0]]
    grown = torch.zeros(6, 7)
    for seed in range(40):
        layer = chosen_layer(weights, capacity=1.0)
        sparsifier = sx.Sparsifier(
            nn.Sequential(layer), torch.optim.SGD([layer.weight], lr=0.0), Grows(), total_steps=9, seed=seed
        )
        assert sparsifier.step()
        assert layer.nnz == 12
        assert layer.mask()[weights != 0].all()
        assert layer.mask()[scores > 0].all()
        grown += layer.mask() & (weights == 0) & (scores == 0)
    assert grown.sum() == 40 * 6
    assert (grown > 0).sum() > 30  # of 36, each of which grew 6.7 times on average


@dataclass(frozen=True)
class Grows(sx.CHTs):
    changes_density = True

    def is_update(self, time):
        return time.step == 1

    def plan(self, layers, time):
        action = sx.methods.Regrow(0, 8, grow_by="links", grow_power=1.0, after_drop=True)
        return dict.fromkeys(layers, action) if time.step == 1 else {}


def test_a_link_grows_in_proportion_to_its_score():
    weights = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    scores, times = link_scores(weights != 0), 150
    assert scores[scores > 0].tolist() == [8.5, 4.5, 8.5, 4.5]
    count = torch.zeros(3, 4)

    @dataclass(frozen=True)
    class One(Grows):
        def plan(self, layers, time):
            return dict.fromkeys(layers, sx.methods.Regrow(0, 1, grow_by="links", grow_power=1.0)) if time.step == 1 else {}

    for seed in range(times):
        layer = chosen_layer(weights, capacity=1.0)
        sx.Sparsifier(nn.Sequential(layer), torch.optim.SGD([layer.weight], lr=0.0), One(), total_steps=9, seed=seed).step()
        count += layer.mask() & (weights == 0)
    share = count / times
    assert (share - scores / scores.sum()).abs().max() < 0.135  # 3.5 standard deviations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [sx.CHTs(0.3, 1), sx.SRigL(0.3, 1)])
def test_other_dtypes(method, dtype):
    torch.manual_seed(0)
    model = sx.sparsify_(nn.Sequential(nn.Linear(24, 16)), 0.7, layout="csr", method=method).to(dtype)
    before, nnz = active(model[0]), model[0].nnz
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10)
    model(torch.randn(8, 24).to(dtype)).float().square().sum().backward()
    optimizer.step()
    assert sparsifier.step()
    assert not torch.equal(active(model[0]), before)
    assert abs(model[0].nnz - nnz) <= (8 if isinstance(method, sx.SRigL) else 0)


def test_no_gradient_is_watched():
    """No step of CHTs costs a dense weight gradient."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, sx.CHTs(update_interval=2), total_steps=10)
    for _ in range(7):
        assert all(layer.watched is None for layer in sparse_layers(model).values())
        model(torch.randn(3, 12)).sum().backward()
        optimizer.step()
        sparsifier.step()
    assert sparsifier.report().updates == 3
    assert sparsifier.state_dict()["signals"] == {}


def test_it_is_a_signal_for_every_method():
    @dataclass(frozen=True)
    class Mine(sx.methods.DropAndGrow):
        signals = ("links",)
        grow_by = "links"

    assert SIGNALS["links"] is LinkPrediction
    layer = chosen_layer(torch.tensor([[1.0, 2, 0, 0], [0, 3, 4, 0], [9, 8, 7, 6]]))
    update(nn.Sequential(layer), Mine(1 / 8, 1, schedule="constant"))
    assert not layer.mask()[0, 0]  # the smallest magnitude went, and grows no more than the largest score, the first of two
    assert layer.mask().int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]


def test_a_gradient_can_be_sampled_from():
    """It is held as a matrix: a choice by chance cannot be made while the gradient is computed."""

    @dataclass(frozen=True)
    class Samples(sx.RigL):
        def plan(self, layers, time):
            plan = super().plan(layers, time)
            return {
                name: sx.methods.Regrow(one.drop, one.grow, "magnitude", "gradient", None, 1.0) for name, one in plan.items()
            }

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, Samples(update_interval=2), total_steps=10)
    changed = [after_a_step(model, optimizer, sparsifier) for _ in range(6)]
    assert changed == [False, True] * 3


def after_a_step(model, optimizer, sparsifier):
    model(torch.ones(3, 12)).square().sum().backward()
    optimizer.step()
    changed = sparsifier.step()
    optimizer.zero_grad()
    return changed
