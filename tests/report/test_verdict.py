"""Each rule of a verdict, by records made by hand."""

import re
from dataclasses import replace

import pytest
from records import NO_COUNTER, arm, record, run, with_arms, with_energy

from sparse_ext.report.quantity import TABLE
from sparse_ext.report.record import NOT_SAVED, OUTCOMES, QUANTITIES, SAVED, SAVED_WITH_LOSS, UNKNOWN, Interval, Metric
from sparse_ext.report.verdict import judged

DENSE_SCORES, DENSE_SECONDS = (2.0, 2.01, 2.02), (10.0, 10.1, 10.2)


def compared(scores=(2.0, 2.011, 2.019), seconds=(4.0, 4.1, 4.2), *, tolerance=0.02, higher=False, joules=None, **more):
    """The judged arm beside a dense one; the tolerance is 0.02 in a metric of which less is better."""
    used = (None, None) if joules is None else joules
    dense = arm("dense", DENSE_SCORES[: len(scores)], DENSE_SECONDS[: len(scores)], joules=used[0])
    sparse = arm("RigL", scores, seconds, method="rigl", joules=used[1], **{"flops": 2e11, **more})
    metric = Metric("bits", higher, tolerance)
    return judged(replace(with_arms(record(), dense, sparse), metric=metric)).arms[1]


def test_tables_name_the_same_quantities():
    assert tuple(TABLE) == QUANTITIES
    assert set(compared().verdicts) == set(QUANTITIES)


# By hand: losses 0, 0.001, -0.001 have mean 0 and standard deviation 0.001; t = 4.302653, so the interval ends at
# 4.302653 * 0.001 / sqrt(3) = 0.00248. Losses 0.03, 0.031, 0.029: the same around 0.03.
CASES = {
    "equal": ((2.0, 2.011, 2.019), SAVED, "quality is equal: a loss of 0.0000 (-0.0025 to 0.0025) in bits, within"),
    "better": ((1.9, 1.911, 1.919), SAVED, "quality is better: a loss of -0.1000 (-0.1025 to -0.0975) in bits, within"),
    "hardly better": ((1.999, 2.01, 2.02), SAVED, "quality is equal: a loss of -0.0003 (-0.0018 to 0.0011) in bits, within"),
    "lost": ((2.03, 2.041, 2.049), SAVED_WITH_LOSS, "there is a quality loss of 0.0300 (0.0275 to 0.0325) in bits, beyond"),
    "lost by the mean": ((2.0, 2.01, 2.12), SAVED_WITH_LOSS, "there is a quality loss of 0.03 (-0.11 to 0.18) in bits, beyond"),
    "not settled": ((2.0, 2.01, 2.05), SAVED_WITH_LOSS, "quality is not settled: a loss of 0.010 (-0.033 to 0.053) in bits"),
    "better, but not settled": ((2.0, 2.01, 1.96), SAVED_WITH_LOSS, "not settled: a loss of -0.020 (-0.106 to 0.066)"),
    "the same": (DENSE_SCORES, SAVED, "quality is equal: a loss of 0 in bits, the same in every repeat, within"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_quality_decides_once_less_was_spent(case):
    scores, outcome, words = CASES[case]
    for name in ("seconds", "flops"):
        found = compared(scores).verdicts[name]
        assert found.outcome == outcome
        assert words in found.sentence
        assert "the tolerance of 0.02" in found.sentence


@pytest.mark.parametrize("case", CASES)
def test_where_more_is_better_the_same_distance_down_is_the_loss(case):
    scores, outcome, words = CASES[case]
    mirrored = [2 * dense - score for score, dense in zip(scores, DENSE_SCORES, strict=True)]
    found = compared(mirrored, higher=True)
    assert found.verdicts["seconds"].outcome == outcome
    assert words in found.verdicts["seconds"].sentence


def test_a_loss_at_the_tolerance_is_within_it():
    """Halves are exact: the loss is 0.5 in every repeat."""
    scores = [score + 0.5 for score in (2.0, 2.5, 3.0)]
    dense = arm("dense", (2.0, 2.5, 3.0), DENSE_SECONDS)
    sparse = arm("RigL", scores, (4.0, 4.1, 4.2), method="rigl")
    for tolerance, outcome in ((0.5, SAVED), (0.49, SAVED_WITH_LOSS)):
        one = replace(with_arms(record(), dense, sparse), metric=Metric("bits", False, tolerance))
        assert judged(one).arms[1].verdicts["seconds"].outcome == outcome


# Seconds beside 10, 10.1 and 10.2.
SPENT = {
    "less": ((4.0, 4.1, 4.2), SAVED, r"^0\.406 \(0\.392 to 0\.421\) of dense's seconds; quality is equal"),
    "more": ((12.0, 12.1, 12.2), NOT_SAVED, r"^1\.1980 \(.*\) of dense's seconds; that is not less\.$"),
    "as much": ((10.0, 10.1, 10.2), NOT_SAVED, r"^1 of dense's seconds; that is not less\.$"),
    "more, but spread": ((9.0, 12.0, 10.2), NOT_SAVED, r"; that is not less\.$"),
    "less, but spread": ((9.0, 10.5, 10.0), NOT_SAVED, r"^0\.97 \(.*\) of dense's seconds; the spread is larger than the diff"),
}


@pytest.mark.parametrize("case", SPENT)
def test_only_what_is_certainly_less_is_saved(case):
    seconds, outcome, sentence = SPENT[case]
    found = compared(seconds=seconds).verdicts["seconds"]
    assert found.outcome == outcome
    assert re.search(sentence, found.sentence)


def test_what_is_not_less_is_not_saved_whatever_the_quality():
    for scores in ((1.0, 1.01, 1.02), (3.0, 3.01, 3.02), (None, 2.0, 2.0)):
        assert compared(scores, (12.0, 12.1, 12.2)).verdicts["seconds"].outcome == NOT_SAVED


def test_counts_without_spread_are_judged_like_the_others():
    """FLOPs are 0.2 of dense's in every repeat, bytes the same."""
    verdicts = compared().verdicts
    assert verdicts["flops"].ratio == Interval(pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.2), 3)
    assert verdicts["flops"].sentence.startswith("0.2 of dense's FLOPs; quality is equal")
    assert (verdicts["bytes"].outcome, verdicts["bytes"].ratio.mean) == (NOT_SAVED, 1.0)


def test_bytes_are_those_of_all_together():
    """Not the weights', and not the sum of the peaks, which may lie at different times."""
    one = record()
    smaller = [replace(run, memory=replace(run.memory, total=1700)) for run in one.arms[1].runs]
    found = judged(with_arms(one, one.arms[0], replace(one.arms[1], runs=tuple(smaller)))).arms[1].verdicts["bytes"]
    assert found.ratio.mean == pytest.approx(0.2)


@pytest.mark.parametrize("repeats", [1, 2])
def test_fewer_than_three_repeats_have_no_verdict(repeats):
    found = compared((2.0, 2.01)[:repeats], (4.0, 4.1)[:repeats])
    assert {found.verdicts[name].outcome for name in ("seconds", "flops", "bytes")} == {UNKNOWN}
    assert f"; unknown, because a verdict needs 3 repeats, got {repeats}." in found.verdicts["seconds"].sentence
    assert found.verdicts["seconds"].ratio.count == repeats


def test_a_score_that_is_not_finite_saves_nothing():
    found = compared((2.0, None, 2.0))
    assert (found.score, found.loss) == (None, None)
    assert {found.verdicts[name].outcome for name in ("seconds", "flops")} == {UNKNOWN}
    sentence = "0.2 of dense's FLOPs; quality is unknown, because the score of RigL with seed 1 was not finite."
    assert found.verdicts["flops"].sentence == sentence


def test_nor_does_a_reference_without_a_score():
    dense, sparse = arm("dense", (2.0, None, None), DENSE_SECONDS), arm("RigL", DENSE_SCORES, (4.0, 4.1, 4.2), method="rigl")
    reference, found = judged(with_arms(record(), dense, sparse)).arms
    assert reference.score is None
    assert found.score is not None
    assert found.verdicts["seconds"].outcome == UNKNOWN
    assert "the score of dense with seed 1 and dense with seed 2 was not finite" in found.verdicts["seconds"].sentence
    assert (reference.target, found.target) == (None, None)


# Joules of dense and of RigL, three each; what the sentence says.
JOULES = {
    "known": (
        ((500, 500, 500), (180, 180, 180)),
        SAVED,
        "^0.36 of dense's joules; quality.* Less the idle machine's share: 0.36.$",
    ),
    "none": (None, UNKNOWN, f"^unknown, because {NO_COUNTER}.$"),
    "one is missing": (((500, 500, 500), (180, None, 180)), UNKNOWN, f"^unknown, because {NO_COUNTER}.$"),
    "zero of dense": (((500, 0, 500), (180,) * 3), UNKNOWN, "dense has 0 joules with seed 1, and a ratio needs more than 0.$"),
    "zero": (((500,) * 3, (180, 180, 0)), UNKNOWN, "RigL has 0 joules with seed 2, and a ratio needs more than 0.$"),
    "below zero": (((500,) * 3, (180, 180, -1)), UNKNOWN, "RigL has -1 joules with seed 2"),
}


@pytest.mark.parametrize("case", JOULES)
def test_joules(case):
    joules, outcome, sentence = JOULES[case]
    found = compared(joules=joules).verdicts["joules"]
    assert found.outcome == outcome
    assert (found.ratio is None) == (outcome == UNKNOWN)
    assert re.search(sentence, found.sentence)


def sentence_with(**changes):
    return judged(with_energy(record(joules=True), 1, **changes)).arms[1].verdicts["joules"].sentence


def test_net_joules_below_zero_are_noise_and_said_to_be():
    said = sentence_with(net_j=-3.0)
    assert said.startswith("0.36 of dense's joules")
    assert said.endswith("-3 joules remain of RigL with seed 0: that is noise, so their ratio is unknown.")


def test_net_joules_that_are_unknown_are_not_mentioned():
    assert "idle" not in sentence_with(net_j=None)


def test_estimates_are_called_so():
    assert sentence_with(estimated=True).endswith("The joules are estimated, not counted.")
    assert "estimated" not in sentence_with()


def test_every_outcome_was_seen():
    """And a verdict is one of them."""
    tables = (CASES, SPENT, JOULES)
    assert {outcome for table in tables for _, outcome, _ in table.values()} == set(OUTCOMES)


def test_scores_and_losses():
    reference, found = judged(record()).arms
    assert (reference.loss, reference.verdicts) == (None, {})
    assert reference.score.mean == pytest.approx(2.01)
    assert found.score.mean == pytest.approx(2.02)
    assert found.loss.mean == pytest.approx(0.01)


def test_judging_again_changes_nothing():
    once = judged(record(joules=True))
    assert judged(once) == once


DENSE = record().arms[0]
WRONG = {
    "no arm": ({"arms": ()}, "arms: expected at least the reference, got none"),
    "two of a name": ({"arms": (DENSE, DENSE)}, "arms: expected names of their own, got dense and dense"),
    "other seeds": (
        {"arms": (DENSE, replace(DENSE, name="RigL", runs=tuple(run(seed, 2.0, 1.0) for seed in (0, 1, 3))))},
        r"arm 'RigL': expected the seeds \[0, 1, 2\] of 'dense', got \[0, 1, 3\]",
    ),
    "fewer seeds": ({"arms": (DENSE, replace(DENSE, name="RigL", runs=DENSE.runs[:2]))}, r"of 'dense', got \[0, 1\]"),
    "a seed twice": ({"arms": (replace(DENSE, runs=DENSE.runs[:1] * 3),)}, r"a seed of its own, got \[0, 0, 0\]"),
    "no run": ({"arms": (replace(DENSE, runs=()),)}, r"arm 'dense': expected runs, .* got \[\]"),
    "no such arm": ({"arms": (DENSE, replace(DENSE, name="x", matches="y"))}, "matches one of dense and x, got 'y'"),
    "tolerance": ({"metric": Metric("bits", False, -0.1)}, "tolerance: expected a number of at least 0, got -0.1"),
    "no tolerance": ({"metric": Metric("bits", False, float("nan"))}, "got nan"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_judged_is_refused(case):
    change, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        judged(replace(record(), **change))
