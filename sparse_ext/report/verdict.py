"""Whether an arm saved something beside the reference: a verdict for each quantity that is spent.

A verdict answers two questions, in this order. All figures are paired by seed; "interval" is the 95 % confidence interval.

1. Was less spent? Yes, if the interval of the ratio ends below 1. If it does not, the arm is "not saved", whatever its
   quality: its mean is no less than the reference's, or the spread is larger than the difference.
2. At which quality? "saved at equal quality", if the interval of the loss ends within the declared tolerance: that is also so
   where the arm is better. Otherwise equality is not established, and at most the arm "saved with a quality loss": either
   the mean loss is beyond the tolerance ("there is a quality loss"), or only the interval's upper end is ("quality is not
   settled"). That end is then the loss that cannot be excluded.

A verdict is "unknown" with fewer than 3 repeats, without a figure, such as joules, or with one that is not above 0, such as a
counter's that did not move. An arm that spent less is "unknown" as well if a score was not finite: there is no quality to
speak of. FLOPs and bytes that are the same in every repeat have an interval of width 0, and the same rules hold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from . import figures, interval
from .headline import headline
from .quality import REPEATS, Quality, quality, scores, too_few, worse_by
from .quantity import TABLE, Quantity, compared
from .record import NOT_SAVED, UNKNOWN, Arm, Record, Verdict
from .target import target


def judged(record: Record) -> Record:
    """The record with every arm's score, loss, target and verdicts, and the headline. What it had of these is not read.

    Raises:
        ValueError: there is no arm; two have the same name; an arm has no runs, or runs of other seeds than the reference's; it
            matches an arm that is not there; the tolerance is below 0 or not a number.
    """
    _check(record)
    arms = tuple(_judged(arm, record) for arm in record.arms)
    with_arms = replace(record, arms=arms)
    return replace(with_arms, headline=headline(with_arms))


def _judged(arm: Arm, record: Record) -> Arm:
    reference, metric = record.arms[0], record.metric
    own = scores(arm)
    score = None if own is None else interval.mean(list(own.values()))
    reached = target(arm, reference, metric)
    if arm is reference:
        return replace(arm, score=score, loss=None, target=reached, verdicts={})
    found = quality(arm, reference, metric)
    verdicts = {name: verdict(row, arm, reference, found) for name, row in TABLE.items()}
    return replace(arm, score=score, loss=worse_by(arm, reference, metric), target=reached, verdicts=verdicts)


def verdict(quantity: Quantity, arm: Arm, reference: Arm, found: Quality) -> Verdict:
    """On what the arm spent of this quantity, at the quality that was found."""
    ratio, why = compared(quantity, arm, reference)
    if ratio is None:
        return Verdict(UNKNOWN, None, f"{figures.unknown(why)}.")
    share = f"{figures.interval(ratio)} of {reference.name}'s {quantity.words}"
    outcome, words = found
    if ratio.high is None or ratio.count < REPEATS:
        outcome, words = UNKNOWN, figures.unknown(too_few(ratio))
    elif ratio.mean >= 1:
        outcome, words = NOT_SAVED, "that is not less"
    elif ratio.high >= 1:
        outcome, words = NOT_SAVED, "the spread is larger than the difference"
    return Verdict(outcome, ratio, f"{share}; {words}.{quantity.aside(arm, reference)}")


def _check(record: Record) -> None:
    if not record.arms:
        raise ValueError("arms: expected at least the reference, got none")
    if not record.metric.tolerance >= 0:
        raise ValueError(f"tolerance: expected a number of at least 0, got {record.metric.tolerance}")
    names = [arm.name for arm in record.arms]
    if len(set(names)) < len(names):
        raise ValueError(f"arms: expected names of their own, got {figures.listed(names)}")
    seeds = sorted(run.seed for run in record.arms[0].runs)
    for arm in record.arms:
        found = Counter(run.seed for run in arm.runs)
        if not found or max(found.values()) > 1:
            raise ValueError(f"arm {arm.name!r}: expected runs, each with a seed of its own, got {sorted(found.elements())}")
        if sorted(found) != seeds:
            raise ValueError(f"arm {arm.name!r}: expected the seeds {seeds} of {names[0]!r}, got {sorted(found)}")
        if arm.matches is not None and arm.matches not in names:
            raise ValueError(f"arm {arm.name!r}: expected that it matches one of {figures.listed(names)}, got {arm.matches!r}")
