"""Intervals against figures computed by hand, and against scipy's."""

import math
import sys
from statistics import NormalDist

import pytest

from sparse_ext.report import interval
from sparse_ext.report.record import Interval


def test_a_mean_by_hand():
    """1, 2, 3: mean 2, standard deviation 1, and t = 4.302653 with 2 degrees of freedom; 4.302653 / sqrt(3) = 2.484138."""
    found = interval.mean([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.count == 3
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_one_value_has_no_ends():
    assert interval.mean([7.0]) == Interval(7.0, None, None, 1)


def test_equal_values_have_no_width():
    assert interval.mean([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)
    assert interval.ratio({0: 3.0, 1: 7.0}, {0: 3.0, 1: 7.0}) == Interval(1.0, 1.0, 1.0, 2)


def test_differences_are_paired_by_seed():
    """By pairs 0.1 each: the seeds' own spread is none of the difference's. The order of the seeds says nothing."""
    found = interval.difference({0: 1.1, 1: 5.1, 2: 9.1}, {2: 9.0, 0: 1.0, 1: 5.0})
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_difference_the_other_way_round():
    assert interval.positive(Interval(-2.0, -3.0, 1.0, 3)) == Interval(2.0, -1.0, 3.0, 3)
    assert interval.positive(Interval(2.0, -1.0, 3.0, 3)) == Interval(2.0, -1.0, 3.0, 3)
    assert interval.positive(Interval(-2.0, None, None, 1)) == Interval(2.0, None, None, 1)


def test_ratios_are_geometric_means():
    """1/2 and 2 are as far from 1: their arithmetic mean, 1.25, would not be that of their inverses."""
    found = interval.ratio({0: 1.0, 1: 4.0}, {0: 2.0, 1: 2.0})
    assert found.mean == pytest.approx(1.0)
    # Logarithms -ln 2 and ln 2: their standard deviation is ln 2 * sqrt(2), and that over sqrt(2) is ln 2.
    assert found.high == pytest.approx(math.exp(12.706205 * math.log(2)))
    assert found.low == pytest.approx(1 / found.high)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: interval.mean([]), "at least one, got"),
        (lambda: interval.mean([1.0, math.nan]), "finite values"),
        (lambda: interval.mean([math.inf]), "finite values"),
        (lambda: interval.difference({0: 1.0}, {1: 1.0}), r"expected the seeds \[1\], got \[0\]"),
        (lambda: interval.ratio({0: 1.0, 1: 0.0}, {0: 1.0, 1: 1.0}), "values above 0, got 0.0"),
        (lambda: interval.ratio({0: 1.0}, {0: -2.0}), "values above 0, got -2.0"),
        (lambda: interval.critical(0), "at least 1 degree of freedom, got 0"),
    ],
)
def test_what_has_no_interval(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_t_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in [*range(1, 60), 100, 1000, 10**6]:
        assert interval.critical(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-6), freedom


def test_t_becomes_the_normal_distributions():
    assert interval.critical(sys.maxsize) == pytest.approx(NormalDist().inv_cdf(0.975))
    assert interval.critical(31) < interval.critical(30)
