"""SNFS: how many each layer drops and grows, by hand and for any numbers."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparse_ext as sx
from sparse_ext.methods import LayerNumbers, Regrow, Time
from sparse_ext.methods.snfs import shared_out
from sparse_ext.nn import sparse_layers


def numbers(nnz, momentum, *, positions=10_000, capacity=5000, target=None, observed=True):
    """A layer of 100 rows whose momentum sums to so much where it is in use."""
    return LayerNumbers(
        100,
        positions // 100,
        capacity,
        "csr",
        dense_weight=False,
        count=lambda: nnz,
        total=lambda name: 9e9,
        target=target,
        total_in_use=lambda name: momentum,
        observed=lambda: observed,
    )


def plan(layers, **choices):
    choices = {"update_interval": 1, "schedule": "constant", "drop_fraction": 0.1, "last_fraction": 0.0} | choices
    return sx.SNFS(**choices).plan(layers, Time(5, 10))


def regrow(drop, grow):
    return Regrow(drop, grow, grow_by="momentum")


def test_all_that_is_dropped_is_shared_out_by_mean_momentum():
    """Means 1 and 3, so that of 300 dropped in all 75 and 225 grow."""
    layers = {"a": numbers(1000, 1000.0), "b": numbers(2000, 6000.0)}
    assert plan(layers) == {"a": regrow(100, 75), "b": regrow(200, 225)}
    assert plan(layers, redistribute=False) == {"a": regrow(100, 100), "b": regrow(200, 200)}


def test_what_is_over_goes_to_the_others():
    """ "a" is at 1000 + 20 at most: 900 stay, so that it has room for 120 of the 300 that it would get."""
    layers = {"a": numbers(1000, 9e6, capacity=1020), "b": numbers(1000, 1000.0), "c": numbers(1000, 2000.0)}
    assert plan(layers) == {"a": regrow(100, 120), "b": regrow(100, 60), "c": regrow(100, 120)}


def test_the_limits_are_growth_capacity_and_positions():
    """The other layer gets what the first has no room for."""
    for choice, room in (
        ({"target": 500}, 1000),  # twice as many as it was made for
        ({"capacity": 1010}, 1010),
        ({"positions": 1000}, 1000),
        ({"target": 300}, 1000),  # it has more, and keeps what it has
    ):
        layers = {"a": numbers(1000, 1e12, **choice), "b": numbers(9000, 1.0, capacity=10_000)}
        assert plan(layers, drop_fraction=0.5) == {
            "a": regrow(500, room - 500),
            "b": regrow(4500, 5000 - (room - 500)),
        }


def test_a_layer_without_gradient_takes_no_part():
    layers = {"a": numbers(1000, 1.0), "b": numbers(1000, 3.0), "idle": numbers(1000, 9e9, observed=False)}
    assert plan(layers) == {"a": regrow(100, 50), "b": regrow(100, 150)}


def test_without_momentum_every_layer_keeps_what_it_has():
    assert plan({"a": numbers(1000, 0.0), "b": numbers(10, 0.0)}) == {"a": regrow(100, 100), "b": regrow(1, 1)}


def test_the_share_falls_from_the_first_to_the_last():
    method = sx.SNFS(t_end=40)
    shares = [method.share(Time(step, 100)) for step in range(41)]
    assert shares[0] == 0.5
    assert shares[40] == 0.005
    assert math.isclose(shares[20], 0.2525)
    assert shares == sorted(shares, reverse=True)
    assert plan({"a": numbers(7, 1.0)}, drop_fraction=0.1) == {"a": regrow(1, 1)}  # rounded up


def test_nothing_happens_from_t_end_on():
    method = sx.SNFS(t_end=0.5, update_interval=10)
    assert [step for step in range(101) if method.is_update(Time(step, 100))] == [10, 20, 30, 40]
    assert method.plan({"a": numbers(100, 1.0)}, Time(50, 100)) == {}
    assert method.observed_steps() == 10
    assert (method.max_density(0.1), method.max_density(0.7)) == (0.2, 1.0)
    assert sx.SNFS(redistribute=False).max_density(0.1) == 0.1


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"last_fraction": 0.6}, r"last_fraction from 0 to drop_fraction \(0.5\), got 0.6"),
        ({"last_fraction": -0.1}, "last_fraction .* got -0.1"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\), got 1.0"),
        ({"momentum": math.nan}, "momentum .* got nan"),
        ({"largest_growth": 0.9}, "largest_growth of at least 1, got 0.9"),
        ({"largest_growth": math.inf}, "finite largest_growth .* got inf"),
        ({"drop_fraction": 1.5}, r"drop_fraction in \[0, 1\], got 1.5"),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        sx.SNFS(**choices)


# ---- sharing out ---------------------------------------------------------------------------------------------------------


def test_remainders_by_hand():
    """7 in proportion to 1 : 1 : 1 is 2 1/3 each; the first of equal remainders gets one more."""
    assert shared_out(7, {"a": 1.0, "b": 1.0, "c": 1.0}, dict.fromkeys("abc", 9)) == {"a": 3, "b": 2, "c": 2}
    assert shared_out(7, {"a": 1.0, "b": 1.0, "c": 2.0}, dict.fromkeys("abc", 9)) == {"a": 2, "b": 2, "c": 3}
    assert shared_out(10, {"a": 5.0, "b": 0.0, "c": 0.0}, {"a": 4, "b": 2, "c": 10}) == {"a": 4, "b": 1, "c": 5}
    with pytest.raises(ValueError, match="expected room for 5, got 4"):
        shared_out(5, {"a": 1.0}, {"a": 4})


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000)), min_size=1, max_size=12), st.floats(0, 1))
def test_any_shares_sum_up_and_fit(pairs, filled):
    weight = {str(i): one for i, (one, _) in enumerate(pairs)}
    room = {str(i): one for i, (_, one) in enumerate(pairs)}
    total = round(filled * sum(room.values()))
    counts = shared_out(total, weight, room)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= room[name] for name in room)
    for a in counts:  # who weighs more gets no less, but for its room and one of rounding
        for b in counts:
            assert weight[a] < weight[b] or counts[a] >= min(counts[b] - 1, room[a])


# ---- in training ---------------------------------------------------------------------------------------------------------


def test_growth_takes_the_largest_momentum_and_layers_exchange_weights():
    """Two layers of 4 of 8 weights. Gradients of the first are larger: of two dropped in all both grow there."""
    torch.manual_seed(0)
    model = nn.Sequential(*(sx.SparseLinear(4, 2, bias=False, sparsity=0.5) for _ in range(2)))
    for layer in model:
        layer.set_matrix_(torch.tensor([[1.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]]), torch.tensor([[1, 1, 0, 0]] * 2).bool())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sx.SNFS(drop_fraction=0.25, last_fraction=0.0, update_interval=2, schedule="constant", momentum=0.5)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=9)
    # Means of [g, g'] after two steps: g / 4 + g' / 2. At 2, 3, 6 and 7 of the first layer: 2, -3, 1, 2.
    for first in ([[0, 0, 8.0, 0], [0, 0, 0, 8.0]], [[8.0, 0, 0, -6.0], [0, 0, 2.0, 0]]):
        eye = torch.eye(4)
        (model[0](eye) * torch.tensor(first).t()).sum().backward()
        (model[1](eye) * 1e-3).sum().backward()
        optimizer.step()
        changed = sparsifier.step()
        optimizer.zero_grad()
    assert changed
    assert [layer.nnz for layer in model] == [5, 3]
    # 0 was dropped, and its mean, 4, is the largest: it grows again; then 3.
    assert model[0].dense_weight().tolist() == [[1.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]]
    assert model[0].mask().tolist() == [[True, True, False, True], [True, True, False, False]]
    assert model[1].dense_weight().tolist() == [[0.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]]


@pytest.mark.parametrize("layout", ["csr", "auto"])
def test_the_total_never_drifts_and_a_layer_without_gradient_stays(layout):
    torch.manual_seed(1)
    method = sx.SNFS(update_interval=3, largest_growth=1.6)
    model = nn.ModuleDict({name: nn.Linear(20, 30) for name in ("a", "b", "c")})
    sx.sparsify_(model, 0.8, layout=layout, method=method, distribution="uniform")
    layers = sparse_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=60)
    total, seen = sum(layer.nnz for layer in layers.values()), set()
    for step in range(1, 61):
        used = ("a", "b") if (step - 1) // 3 % 2 else ("a", "b", "c")  # between every other two updates
        x = torch.randn(8, 20)
        sum((i + 1) * model[name](x).square().mean() for i, name in enumerate(used)).backward()
        optimizer.step()
        before = layers["c"].mask()
        sparsifier.step()
        optimizer.zero_grad(set_to_none=True)
        assert sum(layer.nnz for layer in layers.values()) == total
        assert all(layer.nnz <= 192 for layer in layers.values())
        seen.add(tuple(layer.nnz for layer in layers.values()))
        assert torch.equal(layers["c"].mask(), before) == (step % 6 != 3)
    assert len(seen) > 5


def test_a_run_that_goes_on_after_another_is_not_taken_for_one_that_begins():
    """A layer may have fewer weights by then than it was made for."""
    model = nn.Sequential(*(sx.SparseLinear(12, 12, sparsity=0.7, capacity=0.6) for _ in range(2)))
    model[0].set_matrix_(torch.randn(12, 12), torch.eye(12).bool())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, sx.SNFS(update_interval=1), total_steps=9)
    model(torch.randn(3, 12)).sum().backward()
    optimizer.step()
    assert sparsifier.step()
    assert sum(layer.nnz for layer in model) == 12 + 43


def test_room_is_counted_from_what_a_layer_was_made_for():
    """Not from what it has by now, as in a run that is resumed: weights and optimizer state keep their length."""
    torch.manual_seed(0)
    method = sx.SNFS(update_interval=2)

    def build():
        model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20))
        sx.sparsify_(model, 0.8, method=method)
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(model, optimizer, sparsifier, steps):
        for step in steps:
            model(torch.randn(8, 12, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()

    model, optimizer = build()
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=40)
    lengths = [layer.capacity for layer in sparse_layers(model).values()]
    train(model, optimizer, sparsifier, range(1, 12))
    assert any(layer.nnz > layer.target_nnz for layer in sparse_layers(model).values())
    states = copy.deepcopy([part.state_dict() for part in (model, optimizer, sparsifier)])
    again, other = build()
    again.load_state_dict(states[0])
    resumed = sx.Sparsifier(again, other, method, total_steps=40)  # after the model's state, before the others
    other.load_state_dict(states[1])
    resumed.load_state_dict(states[2])
    assert [layer.capacity for layer in sparse_layers(again).values()] == lengths
    for trio in ((model, optimizer, sparsifier), (again, other, resumed)):
        train(*trio, range(12, 30))
    for layer, twin in zip(sparse_layers(model).values(), sparse_layers(again).values(), strict=True):
        assert torch.equal(layer.mask(), twin.mask())
        assert torch.equal(layer.weight, twin.weight)


def test_a_step_that_is_not_finite_is_left_out_of_the_average():
    """As one that AMP skips: in a window of many steps it must not put the update off, again and again."""
    changes, states = [], []
    for bad in (False, True):
        layer = sx.SparseLinear(4, 2, bias=False, sparsity=0.5, capacity=1.0)
        layer.set_matrix_(torch.tensor([[1.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]]), torch.tensor([[1, 1, 0, 0]] * 2).bool())
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
        method = sx.SNFS(update_interval=3, schedule="constant")
        sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=9)
        for scale in [1.0, 1.0] + [math.inf] * bad + [2.0] * (not bad):
            (layer(torch.eye(4)) * torch.arange(1.0, 9.0).view(2, 4).t()).sum().mul(scale).backward()
            if math.isfinite(scale):
                optimizer.step()
            changes.append(sparsifier.step())
            optimizer.zero_grad()
        states.append(sparsifier._layers[0].observation.signals["momentum"].mean)
    assert changes == 2 * [False, False, True]
    first = 0.1 + 0.09
    torch.testing.assert_close(states[1], first * torch.arange(1.0, 9.0).view(2, 4))
    torch.testing.assert_close(states[0], (0.9 * first + 0.2) * torch.arange(1.0, 9.0).view(2, 4))
