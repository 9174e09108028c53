"""`Contestant`: a training that takes turns with others, and what it has spent."""

from __future__ import annotations

from dataclasses import asdict, astuple
from math import isfinite
from typing import Any

from sparse_ext.report.run import Point

from .meter import Meter, Tally
from .training import Training

WINDOW = "turn"


class Contestant:
    """One arm of a repeat.

    Attributes:
        turn: how many turns it has taken.
        curve: a point for each evaluation.
        energy: of all turns.
        temperatures: before the first turn, and after the last one so far.
        stopped_early: whether the arm has ended its training before its time.
    """

    def __init__(self, training: Training, meter: Meter) -> None:
        self.training, self._meter = training, meter
        self.turn = 0
        self.curve: list[Point] = []
        self.energy = Tally()
        self.temperatures: tuple[float | None, float | None] = (None, None)
        self.stopped_early = False

    @property
    def is_over(self) -> bool:
        """Whether it takes no more turns."""
        return self.training.is_over or self.stopped_early

    @property
    def total_s(self) -> float:
        """Seconds of training and evaluation so far."""
        return self.training.train_s + self.training.evaluation_s

    def take_turn(self, turn: int, turns: int, evaluations: int) -> None:
        """Takes this turn, counted from 1, of all turns: trains, and evaluates if that is due."""
        training, meter = self.training, self._meter
        first = meter.temperature_c() if self.turn == 0 else self.temperatures[0]
        counting, score, evaluates = training.counting_s, None, False
        meter.begin_window(WINDOW)
        try:
            training.train_until(training.size.steps * turn // turns)
            evaluated = self.curve[-1].step if self.curve else 0
            evaluates = training.broken is None and training.step > evaluated and _is_due(turn, turns, evaluations)
            if evaluates:
                score = training.evaluate()
        finally:
            reading = meter.end_window(WINDOW)
        counted = training.counting_s - counting
        self.energy.add(reading, 1 - counted / reading.seconds if counted else 1.0)
        self.temperatures = (first, meter.temperature_c())
        self.turn = turn
        if evaluates:
            self._add_point(score)

    def _add_point(self, score: float | None) -> None:
        training = self.training
        if score is not None and not isfinite(score):
            score, training.broken = None, f"its score at step {training.step} was {score}, which is not finite"
        self.curve.append(Point(training.step, training.samples, self.total_s, self.energy.joules, training.work.flops, score))
        scores = [point.score for point in self.curve if point.score is not None]
        higher = training.task.higher_is_better
        self.stopped_early = not training.is_over and training.contender.is_over(scores, higher)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after this turn."""
        return {
            "training": self.training.state_dict(),
            "turn": self.turn,
            "curve": [astuple(point) for point in self.curve],
            "energy": asdict(self.energy),
            "temperatures": self.temperatures,
            "stopped_early": self.stopped_early,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; of one that has taken no turn."""
        self.training.load_state_dict(state["training"])
        self.turn, self.temperatures = state["turn"], state["temperatures"]
        self.curve, self.energy = [Point(*values) for values in state["curve"]], Tally(**state["energy"])
        self.stopped_early = state["stopped_early"]


def _is_due(turn: int, turns: int, evaluations: int) -> bool:
    """Whether a turn ends with an evaluation: so many are spread evenly, and the last turn has one."""
    return turn * evaluations // turns > (turn - 1) * evaluations // turns
