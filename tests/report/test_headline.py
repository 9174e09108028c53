"""The first sentence says what the reader must know first: whether a dense network does better in the same time."""

from dataclasses import replace

import pytest
from records import arm, record, with_arms

from sparse_ext.report.record import Metric
from sparse_ext.report.verdict import judged

EQUAL = (4.0, 4.1, 4.2)  # the sparse arm's seconds
DENSE = arm("dense", (2.0, 2.01, 2.02), (10.0, 10.1, 10.2))
RIGL = arm("RigL", (2.0, 2.011, 2.019), EQUAL, method="rigl", flops=2e11)


def rival(name, by, seconds=EQUAL, matches="RigL", jitter=0.001):
    """Worse than RigL by so much, give or take."""
    scores = [None if by is None else run.score + by + jitter * x for run, x in zip(RIGL.runs, (0, 1, -1), strict=True)]
    return arm(name, scores, seconds, matches=matches)


def lines(*arms, higher=False):
    one = with_arms(record(), DENSE, *arms)
    return judged(replace(one, metric=Metric("bits", higher, 0.02))).headline


BEATEN = "At equal seconds dense is better: "
WON = "At equal seconds RigL is better than every dense rival: "
UNSETTLED = "At equal seconds neither RigL nor narrower is shown to be better: "
CASES = {
    "beaten": ([rival("narrower", -0.1)], f"{BEATEN}narrower has 1.9"),
    "beaten by one": ([rival("narrower", 0.1), rival("low rank", -0.1)], f"{BEATEN}low rank has 1.9"),
    "the strongest": ([rival("narrower", -0.1), rival("low rank", -0.2), rival("shorter", -0.15)], f"{BEATEN}low rank has 1.8"),
    "beaten in less time": ([rival("narrower", -0.1, (2.0, 2.1, 2.2))], BEATEN),
    "won": ([rival("narrower", 0.1)], f"{WON}narrower has 2.11, RigL 2.01 (bits)."),
    "won all": (
        [rival("narrower", 0.2), rival("low rank", 0.1)],
        f"{WON}low rank has 2.11, RigL 2.01 (bits).",
    ),
    "won in less time": ([rival("narrower", 0.1, (8.0, 8.1, 8.2))], WON),
    "beaten by the weaker": ([rival("narrower", -0.2, jitter=0.5), rival("low rank", -0.1)], f"{BEATEN}low rank has 1.9"),
    "spread, though better": ([rival("narrower", -0.05, jitter=0.1)], UNSETTLED),
    "spread": ([rival("narrower", 0.05, jitter=0.1)], UNSETTLED),
    "one of them unsettled": ([rival("low rank", 0.2), rival("narrower", 0.05, jitter=0.1)], UNSETTLED),
    "the same": ([rival("narrower", 0.0, jitter=0.0)], UNSETTLED),
    "took longer": ([rival("narrower", -0.1, (8.0, 8.1, 8.2))], UNSETTLED),
    "took less": ([rival("narrower", 0.1, (2.0, 2.1, 2.2))], UNSETTLED),
    "not finite": ([rival("narrower", None)], UNSETTLED),
    "none": ([], "This comparison has no dense rival at equal seconds"),
    "of another arm": ([rival("narrower", -0.1, matches="dense")], "This comparison has no dense rival at equal seconds"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_sentence(case):
    rivals, first = CASES[case]
    assert lines(RIGL, *rivals)[0].startswith(first)


def test_it_names_scores_difference_and_seconds():
    """By hand: differences -0.1, -0.099, -0.101 with t = 4.302653: 0.001 * 4.302653 / sqrt(3) = 0.00248."""
    assert lines(RIGL, rival("narrower", -0.1))[:2] == (
        "At equal seconds dense is better: narrower has 1.91, RigL 2.01 (bits).",
        "RigL and narrower: the scores differ by 0.1000 (0.0975 to 0.1025), paired by seed, and narrower took 1 of RigL's"
        " seconds.",
    )


def test_where_more_is_better_the_same_arm_wins():
    assert lines(RIGL, rival("narrower", -0.1), higher=True)[0].startswith(WON)


REASONS = {
    "the spread is larger than the difference; the scores differ by 0.05 (-0.20 to 0.30)": rival("narrower", 0.05, jitter=0.1),
    "the seconds are not equal; the scores differ by 0.1000": rival("narrower", -0.1, (8.0, 8.1, 8.2)),
    "the score of narrower with seed 0, narrower with seed 1 and narrower with seed 2 was not finite": rival("narrower", None),
}


@pytest.mark.parametrize("reason", REASONS)
def test_why_neither_is_better(reason):
    first, details, *_ = lines(RIGL, REASONS[reason])
    assert first.startswith(UNSETTLED)
    assert reason in details


def test_two_repeats_settle_nothing():
    arms = [replace(one, runs=one.runs[:2]) for one in (DENSE, RIGL, rival("narrower", -0.1))]
    found = judged(with_arms(record(), *arms)).headline
    assert found[0].startswith(UNSETTLED)
    assert "a verdict needs 3 repeats, got 2" in found[1]


def test_arms_that_are_beaten_come_first():
    sets = arm("SET", [run.score for run in RIGL.runs], EQUAL, method="set")
    found = lines(RIGL, sets, rival("narrower", 0.1), rival("low rank", -0.1, matches="SET"))
    assert found[0].startswith(f"{BEATEN}low rank")
    assert found[1].startswith(WON)
    alone = lines(RIGL, sets, rival("narrower", 0.1))
    assert alone[1] == "SET has no dense rival at equal seconds in this comparison."


def test_a_sparse_arm_is_no_rival_of_another():
    other = arm("SET", (1.0, 1.01, 1.02), EQUAL, method="set", matches="RigL")
    assert lines(RIGL, other)[0].startswith("This comparison has no dense rival")


def test_equal_flops_are_not_equal_seconds():
    assert lines(RIGL, replace(rival("narrower", -0.1), matched="flops"))[0].startswith("This comparison has no dense rival")


def test_a_sentence_for_each_sparse_arm():
    assert lines(RIGL, rival("narrower", 0.1))[2:] == (
        "RigL in shares of dense: seconds 0.406 (0.392 to 0.421) and FLOPs 0.2: saved at equal quality; bytes 1: not saved."
        " Quality is equal: a loss of 0.0000 (-0.0025 to 0.0025) in bits, within the tolerance of 0.02.",
        "Joules are unknown: no energy counter can be read on this machine.",
    )


def test_joules_that_another_reason_hides_are_told_with_the_arm():
    dead = replace(RIGL.runs[0], energy=replace(RIGL.runs[0].energy, why="the GPU is lost"))
    found = lines(replace(RIGL, runs=(dead, *RIGL.runs[1:])), rival("narrower", 0.1))
    assert "joules: unknown, because" in found[2]


def test_a_comparison_of_dense_arms_says_so():
    assert lines() == ("No arm of this comparison is sparse.",)
