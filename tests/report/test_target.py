"""What an arm needs for the reference's quality, from its curve."""

from dataclasses import replace

import pytest
from records import NO_COUNTER, arm, record, with_arms

from sparse_ext.report.record import Metric
from sparse_ext.report.verdict import judged


def targets(one):
    return [found.target for found in judged(one).arms]


def test_the_first_evaluation_within_the_tolerance_counts():
    """The curves are 1.1 times the score halfway and the score at the end. The target is 2 + 0.02."""
    dense = arm("dense", (2.0, 2.0, 2.0), (10.0, 10.0, 10.0))
    fast = arm("RigL", (1.8, 1.8, 1.8), (4.0, 5.0, 6.0), method="rigl")  # 1.98 halfway
    slow = arm("SET", (1.9, 1.9, 1.9), (4.0, 5.0, 6.0), method="set")  # 2.09 halfway
    reference, first, last = targets(with_arms(record(), dense, fast, slow))
    assert reference.score == first.score == pytest.approx(2.02)
    assert (reference.seconds.mean, first.seconds.mean, last.seconds.mean) == (10.0, 2.5, 5.0)
    assert (first.flops.mean, last.flops.mean) == (5e11, 1e12)
    assert (first.reached, first.joules, first.why) == (3, None, NO_COUNTER)


def test_a_run_that_does_not_reach_it_leaves_no_mean():
    """A mean over the others would be that of the lucky ones."""
    found = targets(with_arms(record(), record().arms[0], arm("RigL", (2.0, 2.0, 9.0), (4.0, 4.1, 4.2), method="rigl")))[1]
    assert (found.reached, found.seconds, found.flops, found.joules) == (2, None, None, None)
    assert found.why == "1 of 3 runs did not reach it"


def test_joules():
    assert [found.joules.mean for found in targets(record(joules=True))] == [500.0, 180.0]


def test_joules_of_some_runs_only_have_no_mean():
    one = record(joules=True)
    sparse = one.arms[1]
    curve = tuple(replace(point, joules=None) for point in sparse.runs[0].curve)
    runs = (replace(sparse.runs[0], curve=curve), *sparse.runs[1:])
    found = targets(with_arms(one, one.arms[0], replace(sparse, runs=runs)))[1]
    assert (found.joules, found.why) == (None, "not every evaluation has joules")
    assert found.seconds is not None


def test_higher_is_better():
    """The same curves fall: the first evaluation is 1.1 times the score."""
    one = replace(record(), metric=Metric("accuracy", True, 0.02))
    reference, sparse = targets(one)
    assert reference.score == pytest.approx(1.99)
    assert (reference.seconds.mean, sparse.seconds.mean) == pytest.approx((5.05, 2.05))


def test_an_evaluation_that_is_not_finite_reaches_nothing():
    one = record()
    sparse = one.arms[1]
    runs = tuple(replace(run, curve=tuple(replace(point, score=None) for point in run.curve)) for run in sparse.runs)
    assert targets(with_arms(one, one.arms[0], replace(sparse, runs=runs)))[1].reached == 0
