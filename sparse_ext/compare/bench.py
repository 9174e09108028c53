"""`Bench`: FLOPs and seconds of an arm and of the one that it matches. From them the arm's size is found, before training.

FLOPs are planned ones; seconds are timed. Their means are taken, not medians: a run, too, has its share of interruptions by
whatever else uses the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

import torch
from torch import nn

from .arms import Contender, Size
from .rehearsal import planned_flops
from .task import Task
from .training import Clock, Training
from .work import Kind, kinds_of

WARM_UP = 3  # steps that are not timed
LEAST, MOST = 10, 300  # timed steps
BUDGET_S, TURN_S = 1.0, 0.05  # of each arm in a timing, if it has LEAST steps by then; and of a turn
CHUNKS = 8
EVALUATIONS = 3  # that are timed


class Pace(NamedTuple):
    """Attributes:
    step_s: of one of the first steps, without changes of patterns.
    evaluations_s: of all evaluations of a run.
    """

    step_s: float
    evaluations_s: float


class Paces(NamedTuple):
    """Attributes:
    own: of the arm that is timed.
    rival_s: of the whole run of the arm that it matches, at the speed that the machine has now.
    """

    own: Pace
    rival_s: float

    def ratio(self, steps: int) -> float:
        """Seconds of a whole run of so many steps over the rival's."""
        return (self.own.step_s * steps + self.own.evaluations_s) / self.rival_s


class Bench:
    """FLOPs and seconds for an arm that matches another one, its rival.

    Args:
        steps, evaluations: of the comparison's runs.
        clock: the time; None: the device's.

    Attributes:
        rival: the arm that it matches.
        notes: sentences for the reader, on the timings.
    """

    def __init__(
        self, task: Task, rival: Contender, steps: int, evaluations: int, device: torch.device, clock: Clock | None = None
    ) -> None:
        self.rival, self.steps = rival, steps
        self.notes: list[str] = []
        self._task, self._evaluations, self._device, self._clock = task, evaluations, device, clock
        self._worth: float | None = None

    def flops(self, contender: Contender, size: Size) -> float:
        """Planned FLOPs of a whole run, for each sample of a batch."""
        return planned_flops(self._training(contender, size)) * size.steps

    def rival_flops(self) -> float:
        """The same of the rival."""
        return self.flops(self.rival, Size(self.steps))

    def rival_model(self) -> nn.Module:
        """A new one."""
        return self._training(self.rival, Size(self.steps)).model

    def paces(self, contender: Contender, size: Size) -> Paces:
        """The arm, at this size, and its rival take turns."""
        if self._worth is None:
            self._worth = self._measured_worth()
        own, rival = self._alternating(self._training(contender, size), self._training(self.rival, Size(self.steps)))
        return Paces(own, self._worth * rival.step_s + rival.evaluations_s)

    def _training(self, contender: Contender, size: Size) -> Training:
        return Training(self._task, contender, size, 0, self._device, self._clock)

    def _alternating(self, *pair: Training) -> list[Pace]:
        seconds: list[list[float]] = [[] for _ in pair]
        while not any(map(self._is_timed, seconds)) and not any(training.is_over for training in pair):
            for training, own in zip(pair, seconds, strict=True):
                own += _turn(training)
        evaluations = [self._evaluations * _evaluation_s(training) for training in pair]
        return [Pace(fmean(own[WARM_UP:] or own), rest_s) for own, rest_s in zip(seconds, evaluations, strict=True)]

    def _is_timed(self, seconds: Sequence[float]) -> bool:
        """Whether these steps suffice: a timing is short beside a run."""
        most = min(MOST, self.steps // 4)
        return len(seconds) >= LEAST and (len(seconds) >= most or sum(seconds) >= BUDGET_S)

    def _measured_worth(self) -> float:
        """How many of the rival's first steps take as long as its whole training.

        By a run that is shorter: schedules of densities are shares of its length, and pass by as a whole. What observing the
        dense gradient and changing patterns costs is added as often as the whole run does them.
        """
        method = self.rival.trained_by
        if method is None:
            return float(self.steps)
        steps = min(self.steps, max(3 * getattr(method, "update_interval", 0), CHUNKS * LEAST), MOST)
        training, timed = self._training(self.rival, Size(steps)), []
        while not training.is_over:
            timed.append(_timed_step(training))
        timed = timed[WARM_UP:] or timed
        plain = [one.step_s for one in timed if not one.kind.observes] or [one.step_s for one in timed]
        chunks = _chunks(plain) if any(part.changes_density for part in method.parts) else [plain]
        first_s, mean_s, every = fmean(chunks[0]), fmean(map(fmean, chunks)), kinds_of(method, self.steps)
        observing = self._beyond([one.step_s for one in timed if one.kind.observes], [kind.observes for kind in every], mean_s)
        updating = self._beyond([one.update_s for one in timed if one.kind.updates], [kind.updates for kind in every], 0.0)
        return (self.steps * mean_s + observing + updating) / first_s

    def _beyond(self, seconds: list[float], wanted: list[bool], usual_s: float) -> float:
        """Seconds beyond the usual ones of all steps of one kind, which the whole run has where it is wanted."""
        if not seconds and any(wanted):
            self.notes.append(
                f"{self.rival.name}: none of the {sum(wanted)} steps that observe the dense gradient or change a pattern was "
                "timed beforehand, as they come late; they are taken as the others are"
            )
        return max(0.0, fmean(seconds) - usual_s) * sum(wanted) if seconds else 0.0


class TimedStep(NamedTuple):
    """Attributes:
    step_s: without the update. update_s: of the update.
    kind: what the method did.
    """

    step_s: float
    update_s: float
    kind: Kind


def _turn(training: Training) -> list[float]:
    """Seconds of each of the next steps: so many that what they use is in caches, as in a run's turns."""
    seconds: list[float] = []
    while not training.is_over and sum(seconds) < TURN_S:
        seconds.append(_timed_step(training).step_s)
    return seconds


def _timed_step(training: Training) -> TimedStep:
    """The next step."""
    train_s, updates_s, kind = training.train_s, training.updates_s, training.work.kind(training.step)
    training.train_until(training.step + 1)
    update_s = training.updates_s - updates_s
    return TimedStep(training.train_s - train_s - update_s, update_s, kind)


def _evaluation_s(training: Training) -> float:
    """Of one evaluation."""
    seconds = []
    for _ in range(EVALUATIONS):
        before = training.evaluation_s
        training.evaluate()
        seconds.append(training.evaluation_s - before)
    return fmean(seconds)


def _chunks(values: Sequence[float]) -> list[Sequence[float]]:
    """In order, CHUNKS of about the same length, if there are as many."""
    count = min(CHUNKS, len(values))
    ends = [len(values) * i // count for i in range(count + 1)]
    return [values[a:b] for a, b in pairwise(ends)]
