"""CHTs and CHTss: counts and powers by hand, the path of the density, and runs that equal a dense model under a mask."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from masked import NETWORKS, OPTIMIZERS, MaskedTraining, compare, mask_of, ranked

import sparse_ext as sx
from sparse_ext.methods import LayerNumbers, Regrow, Time
from sparse_ext.ops import reference


def numbers(nnz, target=None, shape=(100, 100)):
    return LayerNumbers(*shape, 10_000, "csr", dense_weight=False, count=lambda: nnz, total=lambda name: 0.0, target=target)


# ---- plans ------------------------------------------------------------------------------------------------------------


def test_counts_and_powers_by_hand():
    method = sx.CHTs(update_interval=10, schedule="constant", t_end=80)
    common = {"grow_by": "links", "grow_power": 1.0, "after_drop": True}
    assert method.plan({"a": numbers(1005), "none": numbers(9)}, Time(20, 100)) == {
        "a": Regrow(100, 100, keep_power=3.0, **common)  # T: 1 + 8 * 20 / 80
    }
    assert method.plan({"a": numbers(1000)}, Time(25, 100)) == {}
    assert method.plan({"a": numbers(1000)}, Time(80, 100)) == {}
    cosine = sx.CHTs(update_interval=10, t_end=80, grow_power=None, first_power=2.0, last_power=2.0)
    common = {**common, "grow_power": None}
    assert cosine.plan({"a": numbers(1000)}, Time(40, 100)) == {"a": Regrow(50, 50, keep_power=2.0, **common)}


def test_no_gradient_is_observed():
    method = sx.CHTs(update_interval=2)
    assert method.observed_steps() == 0
    assert not any(method.observes(Time(step, 100)) for step in range(100))


def test_the_density_by_hand():
    """5000 to 1000 positions in 8 updates; k = 6: sigma(-3) = 0.0474, sigma(-6) = 0.00247; at 1/4: 0.04518 of 4000 are gone."""
    method = sx.CHTss(update_interval=10, t_end=81, drop_fraction=0.0)
    assert method.end_of_decay(100) == 80
    assert [method.wanted(numbers(5000, 1000), Time(step, 100)) for step in (20, 40, 60, 80)] == [4819, 3000, 1181, 1000]
    action = method.plan({"a": numbers(4900, 1000)}, Time(40, 100))["a"]
    assert (action.drop, action.grow) == (1900, 0)
    assert method.wanted(numbers(900, 1000), Time(40, 100)) == 900  # it never grows
    assert method.wanted(numbers(7000, 7000), Time(40, 100)) == 7000  # denser than the path begins


@given(
    interval=st.integers(1, 30),
    t_end=st.one_of(st.floats(0.01, 1.0), st.integers(0, 150)),
    total=st.integers(1, 120),
    target=st.integers(1, 10_000),
    first=st.floats(0.01, 1.0),
    steepness=st.floats(0.1, 50.0),
)
def test_the_density_falls_to_its_end_exactly(interval, t_end, total, target, first, steepness):
    method = sx.CHTss(update_interval=interval, t_end=t_end, first_density=first, steepness=steepness)
    nnz = begin = round(method.initial_density(target / 10_000) * 10_000)
    for step in range(1, total + 1):
        action = method.plan({"a": numbers(nnz, target)}, Time(step, total)).get("a")
        assert action is None or method.is_update(Time(step, total))
        if action is not None:
            assert 0 <= action.grow <= action.drop <= nnz
            nnz -= action.drop - action.grow
            assert target <= nnz
    assert nnz == target <= begin


@pytest.mark.parametrize(
    ("kind", "choices", "sentence"),
    [
        (sx.CHTs, {"first_power": -1.0}, "finite first_power of at least 0, got -1.0"),
        (sx.CHTs, {"last_power": math.inf}, "finite last_power of at least 0, got inf"),
        (sx.CHTs, {"grow_power": math.nan}, "finite grow_power of at least 0, got nan"),
        (sx.CHTs, {"receptive_field": 1.5}, r"receptive_field in \[0, 1\] or None, got 1.5"),
        (sx.CHTss, {"first_density": 0.0}, r"first_density in \(0, 1\], got 0.0"),
        (sx.CHTss, {"steepness": 0.0}, "finite steepness above 0, got 0.0"),
    ],
)
def test_wrong_choices_are_refused(kind, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**choices)


def test_one_density_only_is_refused():
    model = sx.sparsify_(torch.nn.Sequential(torch.nn.Linear(12, 8)), layout="2:4")
    with pytest.raises(ValueError, match=r"CHTss changes the density of layers.*use layout='auto' or 'csr'"):
        sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sx.CHTss(), total_steps=9)


# ---- the pattern sequence ---------------------------------------------------------------------------------------------

STEPS, INTERVAL, ZETA, T_END = 80, 4, 0.4, 0.75


def order(score, power, seed):
    """log(score ** power / E), by which n largest are n elements without replacement (Efraimidis & Spirakis 2006)."""
    uniform = (reference.random_u32(seed, score.numel()).double() + 0.5) / 2**32
    return power * score.flatten().log() - (-uniform.log()).log()


def ch2_l3n(mask):
    """Dense, as in the paper, of factors that are rounded; what has no path of length 3 comes after all others."""
    unit = 2 ** (50 - (mask.numel() + sum(mask.shape)).bit_length())

    def side(links):
        shared, degree = links @ links.T, links.sum(1)
        factor = ((shared + 1) / (degree - shared).clamp(min=1) * unit).round() / unit
        return torch.where(shared > 0, factor, 0.0) @ links

    links = mask.double()
    return (side(links) + side(links.T).T).clamp(min=1e-30)


class CHTs(MaskedTraining):
    GROW_POWER = 1.0

    def density(self, name, step):
        return int(self.masks[name].sum())

    def is_update(self, step):
        return step % INTERVAL == 0 and step < T_END * STEPS

    def update(self, step, gradients):
        if not self.is_update(step):
            return
        progress = step / (T_END * STEPS)
        for name in self.masks:
            mask = self.masks[name].flatten(1)
            nnz, wanted = int(mask.sum()), self.density(name, step)
            count = math.floor(ZETA / 2 * (1 + math.cos(math.pi * progress)) * wanted)
            seed = self.stream(name, step)
            chances = order(self.weight(name).flatten(1).abs(), 1 + 8 * progress, ~seed)
            keep = self.kept(chances, mask, nnz - wanted + count)
            links = ch2_l3n(keep)
            chances = links if self.GROW_POWER is None else order(links, self.GROW_POWER, seed)
            self.change(name, (keep | self.grown(chances.view_as(mask), keep, count)).view_as(self.masks[name]))

    def kept(self, chances, mask, drop):
        return mask_of(ranked(chances, mask)[: int(mask.sum()) - drop], mask)

    def grown(self, chances, keep, count):
        return mask_of(ranked(chances, ~keep)[:count], keep)


class Largest(CHTs):
    GROW_POWER = None


class CHTss(CHTs):
    def is_update(self, step):
        return super().is_update(step) or step == 59

    def density(self, name, step):
        size, target = self.masks[name].numel(), self.targets[name]
        low, here = (1 / (1 + math.exp(-6 * x)) for x in (-1, 2 * step / 59 - 1))
        begin = max(target, round(size / 2))
        return begin - round((begin - target) * ((here - 0.5) / (1 - 2 * low) + 0.5))


class TwoOfFour(CHTs):
    """Every group of four grows as many as it drops; the ninth input of a channel has no alternative."""

    def kept(self, chances, mask, drop):
        cols = mask.shape[1]
        fixed = (torch.arange(cols) >= cols // 4 * 4) & (cols % 4 < 3)
        return super().kept(chances, mask & ~fixed, drop) | (mask & fixed)

    def grown(self, chances, keep, count):
        new = torch.zeros_like(keep)
        for row, first in torch.cartesian_prod(torch.arange(len(keep)), torch.arange(0, keep.shape[1] // 4 * 4, 4)).tolist():
            free = [col for col in range(first, first + 4) if not keep[row, col]]
            free.sort(key=lambda col: (-float(chances[row, col]), col))
            new[row, free[: len(free) - 2]] = True
        return new


VARIANTS = {
    "chts": (sx.CHTs, CHTs, {}, {}),
    "largest": (sx.CHTs, Largest, {"grow_power": None}, {}),
    "chtss": (sx.CHTss, CHTss, {}, {}),
    "2:4": (sx.CHTs, TwoOfFour, {}, {"layout": "2:4", "sparsity": 0.5}),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_pattern_sequence_equals_a_masked_dense_model(variant, optimizer, network):
    kind, definition, choices, how = VARIANTS[variant]
    method = kind(drop_fraction=ZETA, update_interval=INTERVAL, t_end=T_END, **choices)
    _, sparsifier, masked, history = compare(method, definition, network=network, optimizer=optimizer, steps=STEPS, **how)
    assert len(set(history)) > 10
    for row in sparsifier.report().layers:
        assert row.nnz == masked.targets[row.name]
