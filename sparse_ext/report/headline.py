"""What a comparison found, in sentences; the first is what the reader must know first.

The honest rival of a sparse network is a dense one that takes as long: fewer steps, a narrower one, low-rank layers. So the
first sentences say, of each sparse arm, whether such a rival is better; arms that a rival beats come first. A rival is better
if the 95 % confidence interval of the difference of their scores, paired by seed, lies on its side of 0, and if it took no more
of the arm's seconds than equal means. It is worse if the interval lies on the other side, and it took no less.
"""

from __future__ import annotations

from typing import NamedTuple

from . import figures, interval
from .quality import REPEATS, diverged, quality, too_few, worse_by
from .quantity import TABLE, compared
from .record import Arm, Interval, Metric, Record, Verdict

EQUAL = 0.05  # seconds are equal up to this share: a budget ends with the step and the evaluation that it began

BEATEN, UNSETTLED, WON, ALONE = range(4)  # the order of the sentences


def headline(record: Record) -> tuple[str, ...]:
    """Of a record whose arms are judged: on equal seconds first, then each sparse arm beside the reference."""
    sparse = [arm for arm in record.arms[1:] if arm.method is not None]
    if not sparse:
        return ("No arm of this comparison is sparse.",)
    found = sorted((_at_equal_seconds(arm, record) for arm in sparse), key=lambda one: one.rank)
    if all(one.rank == ALONE for one in found):
        alone = (
            "This comparison has no dense rival at equal seconds: it does not say whether a smaller or shorter dense training"
            " would have served as well."
        )
        found = [Finding(ALONE, alone)]
    details = [one.details for one in found if one.details]
    unknown = [f"Joules are unknown: {record.sensor_why}."] if record.sensor_why else []
    return (*(one.sentence for one in found), *details, *(_beside(arm, record) for arm in sparse), *unknown)


def is_told(one: Verdict, record: Record) -> bool:
    """Whether it is unknown for the reason that all arms share, which the headline tells: once is enough."""
    return record.sensor_why is not None and record.sensor_why in one.sentence


class Finding(NamedTuple):
    """What is known of a sparse arm at equal seconds.

    Attributes:
        rank: its place among those of other arms.
        details: what the sentence rests on; "": nothing more.
    """

    rank: int
    sentence: str
    details: str = ""


class Duel(NamedTuple):
    """A sparse arm and one of its rivals.

    Attributes:
        behind: by how much the rival is worse; None: a score was not finite.
        seconds: the rival's over the sparse arm's; None: unknown.
    """

    arm: Arm
    rival: Arm
    behind: Interval | None
    seconds: Interval | None

    @property
    def result(self) -> int:
        """BEATEN, UNSETTLED or WON, from the sparse arm's side."""
        behind, seconds = self.behind, self.seconds
        if behind is None or seconds is None or behind.count < REPEATS or behind.low is None or behind.high is None:
            return UNSETTLED
        if behind.high < 0 and seconds.mean <= 1 + EQUAL:
            return BEATEN
        return WON if behind.low > 0 and seconds.mean >= 1 - EQUAL else UNSETTLED

    def words(self) -> str:
        """The difference."""
        if self.behind is None:
            return diverged(self.arm, self.rival)
        took = "an unknown share" if self.seconds is None else figures.interval(self.seconds)
        seconds = f"{self.rival.name} took {took} of {self.arm.name}'s seconds"
        return f"the scores differ by {figures.interval(interval.positive(self.behind))}, paired by seed, and {seconds}"

    def doubt(self) -> str:
        """Why it is not settled."""
        if self.behind is None:
            return self.words()
        if self.behind.count < REPEATS:
            return f"{too_few(self.behind)}; {self.words()}"
        if self.seconds is None or abs(self.seconds.mean - 1) > EQUAL:
            return f"the seconds are not equal; {self.words()}"
        return f"the spread is larger than the difference; {self.words()}"


def _at_equal_seconds(arm: Arm, record: Record) -> Finding:
    """Of an arm and its rivals."""
    rivals = [one for one in record.arms if one.method is None and (one.matches, one.matched) == (arm.name, "seconds")]
    if not rivals:
        return Finding(ALONE, f"{arm.name} has no dense rival at equal seconds in this comparison.")
    duels = sorted((_duel(arm, rival, record.metric) for rival in rivals), key=lambda duel: (duel.result, _strength(duel)))
    first = duels[0]
    one, other = arm.name, first.rival.name
    scores = f"{other} has {_score(first.rival)}, {one} {_score(arm)} ({record.metric.name})"
    sentence = {
        BEATEN: f"At equal seconds dense is better: {scores}.",
        UNSETTLED: f"At equal seconds neither {one} nor {other} is shown to be better: {scores}.",
        WON: f"At equal seconds {one} is better than every dense rival: {scores}.",
    }[first.result]
    details = first.doubt() if first.result == UNSETTLED else first.words()
    return Finding(first.result, sentence, f"{one} and {other}: {details}.")


def _duel(arm: Arm, rival: Arm, metric: Metric) -> Duel:
    return Duel(arm, rival, worse_by(rival, arm, metric), compared(TABLE["seconds"], rival, arm).ratio)


def _strength(duel: Duel) -> float:
    """The best rival has the lowest; one without a score the highest."""
    return float("inf") if duel.behind is None else duel.behind.mean


def _score(arm: Arm) -> str:
    return "no finite score" if arm.score is None else figures.number(arm.score.mean)


def _beside(arm: Arm, record: Record) -> str:
    """What an arm spent beside the reference, by outcome, and its quality."""
    outcomes: dict[str, list[str]] = {}
    missing: list[str] = []
    for name, one in arm.verdicts.items():
        words = TABLE[name].words
        if one.ratio is None:
            missing += [] if is_told(one, record) else [f"{words}: {one.sentence.rstrip('.')}"]
        else:
            outcomes.setdefault(one.outcome, []).append(f"{words} {figures.interval(one.ratio)}")
    parts = [*(f"{figures.listed(of)}: {outcome}" for outcome, of in outcomes.items()), *missing]
    reference = record.arms[0]
    known = quality(arm, reference, record.metric).words
    return f"{arm.name} in shares of {reference.name}: {'; '.join(parts)}. {known[0].upper()}{known[1:]}."
