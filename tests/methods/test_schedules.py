"""When a method acts, and on how much: no tensors involved."""

import math

import pytest

import sparse_ext as sx
from sparse_ext.methods import SCHEDULES, Choose, LayerNumbers, Regrow, Switch, Time

CHANGING = [sx.SET, sx.RigL]


def updates(method, total_steps):
    return [step for step in range(total_steps + 2) if method.is_update(Time(step, total_steps))]


def numbers(nnz, layout="csr"):
    """A layer of 100 x 100 with so many entries."""
    return LayerNumbers(100, 100, 5000, layout, dense_weight=False, count=lambda: nnz, total=lambda name: 0.0)


def test_the_methods_table():
    assert list(sx.METHODS.items())[:6] == [
        ("static", sx.Static),
        ("set", sx.SET),
        ("rigl", sx.RigL),
        ("sr-ste", sx.SRSTE),
        ("fst", sx.FST),
        ("s-ste", sx.SSTE),
    ]


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize(
    ("interval", "t_end", "total", "expected"),
    [
        (10, 0.75, 100, [10, 20, 30, 40, 50, 60, 70]),
        (25, 0.75, 100, [25, 50]),  # not at t_end itself
        (25, 75, 100, [25, 50]),  # the same as a step number
        (25, 76, 100, [25, 50, 75]),
        (25, 1.0, 100, [25, 50, 75]),  # a share of 1 is the whole run, not step 1
        (1, 1, 100, []),  # the integer 1 is step 1
        (1, 2, 100, [1]),
        (1, 3, 100, [1, 2]),
        (7, 0.5, 29, [7, 14]),  # 14 < 14.5
        (100, 0.75, 100, []),
        (10, 1000, 25, [10, 20]),  # beyond the run
    ],
)
def test_update_steps(kind, interval, t_end, total, expected):
    assert updates(kind(update_interval=interval, t_end=t_end), total)[: len(expected) + 1] == expected


@pytest.mark.parametrize("kind", CHANGING)
def test_defaults(kind):
    method = kind()
    assert (method.drop_fraction, method.update_interval, method.t_end, method.schedule) == (0.3, 100, 0.75, "cosine")


def test_static_never_acts():
    assert updates(sx.Static(), 1000) == []
    assert sx.Static().plan({"a": numbers(100)}, Time(10, 100)) == {}
    assert sx.Static().observed_steps() == 0


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(-1.0, 1.0), (0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1.0, 0.0), (7.0, 0.0)],
)
def test_cosine_by_hand(progress, expected):
    assert math.isclose(SCHEDULES["cosine"](progress), expected, abs_tol=1e-15)
    assert SCHEDULES["constant"](progress) == 1.0


@pytest.mark.parametrize(("kind", "grow_by"), [(sx.SET, "random"), (sx.RigL, "gradient")], ids=["set", "rigl"])
@pytest.mark.parametrize(
    ("schedule", "fraction", "step", "nnz", "count"),
    [
        ("cosine", 0.3, 25, 1001, 225),  # t_end = 75: 0.3 * 3/4 * 1001 = 225.2
        ("cosine", 0.4, 50, 1003, 100),  # 0.4 * 1/4 * 1003 = 100.3
        ("cosine", 0.3, 74, 1000, 0),  # 0.13
        ("constant", 0.3, 74, 1009, 302),  # 302.7
        ("constant", 0.3, 10, 3, 0),  # 0.9: never rounded up
        ("constant", 0.25, 10, 4, 1),
        ("constant", 1.0, 10, 77, 77),
        ("constant", 0.0, 10, 77, 0),
        ("constant", 0.3, 10, 0, 0),
    ],
)
def test_counts_are_floors(kind, grow_by, schedule, fraction, step, nnz, count):
    method = kind(drop_fraction=fraction, update_interval=1, t_end=0.75, schedule=schedule)
    layers = {"a": numbers(nnz), "none": numbers(0)}
    assert method.plan(layers, Time(step, 100)) == ({"a": Regrow(count, count, "magnitude", grow_by)} if count else {})
    assert method.observed_steps() == (grow_by == "gradient")
    assert method.max_density(0.1) == 0.1


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"drop_fraction": -0.1}, r"drop_fraction in \[0, 1\], got -0.1"),
        ({"drop_fraction": 1.5}, r"drop_fraction in \[0, 1\], got 1.5"),
        ({"drop_fraction": math.nan}, r"drop_fraction in \[0, 1\], got nan"),
        ({"update_interval": 0}, "update_interval of at least 1, got 0"),
        ({"update_interval": -5}, "update_interval of at least 1, got -5"),
        ({"update_interval": 2.5}, "update_interval.* got 2.5"),
        ({"t_end": -1}, "t_end .* got -1"),
        ({"t_end": -0.5}, "t_end .* got -0.5"),
        ({"t_end": 0.0}, "t_end .* got 0.0"),
        ({"t_end": 1.5}, "t_end .* got 1.5"),
        ({"t_end": math.nan}, "t_end .* got nan"),
        ({"schedule": "linear"}, "schedule to be one of 'constant', 'cosine', got 'linear'"),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(kind, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**choices)


@pytest.mark.parametrize("steps", [0, -1, 11, 2.5])
def test_wrong_gradient_steps_are_refused(steps):
    with pytest.raises(ValueError, match=rf"gradient_steps from 1 to update_interval \(10\), got {steps}"):
        sx.RigL(update_interval=10, gradient_steps=steps)


@pytest.mark.parametrize(("gradient_steps", "observed"), [(1, [10, 20]), (3, [8, 9, 10, 18, 19, 20]), (10, [*range(1, 21)])])
def test_the_last_steps_up_to_an_update_are_observed(gradient_steps, observed):
    method = sx.RigL(update_interval=10, gradient_steps=gradient_steps, t_end=30)
    assert [step for step in range(1, 40) if method.observes(Time(step, 100))] == observed


def test_every_layer_has_its_own_count():
    layers = {name: numbers(nnz) for name, nnz in (("a", 1000), ("b", 10))}
    method = sx.SET(drop_fraction=0.3, update_interval=1, schedule="constant")
    assert method.plan(layers, Time(5, 100)) == {"a": Regrow(300, 300), "b": Regrow(3, 3)}


@pytest.mark.parametrize(("kind", "rule"), [(sx.SRSTE, "largest"), (sx.SSTE, "soft"), (sx.FST, "transposable")])
def test_dense_weights_are_chosen_from_by_a_rule(kind, rule):
    layers = {"a": numbers(5000, "2:4")}
    assert kind().plan(layers, Time(0, 100)) == {"a": Choose(rule)}
    assert kind().dense_weight


def test_a_dense_tail_by_hand():
    """A quarter of 20 steps: step 15 is the last sparse one."""
    method, layers = sx.FST(refresh_interval=4, dense_tail=0.25), {"a": numbers(5000, "2:4")}
    assert updates(method, 20) == [0, 4, 8, 12, 15]
    assert [method.plan(layers, Time(step, 20))["a"] for step in (0, 14, 15, 20)] == [
        *2 * [Choose("transposable")],
        *2 * [Switch("dense")],
    ]
    assert method.plan(layers, Time(20, 20)) == {"a": Switch("dense")}
