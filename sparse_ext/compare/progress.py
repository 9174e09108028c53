"""How far a comparison is: bars on a terminal, where rich is installed; elsewhere plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .contestant import Contestant


class Watch:
    """Is told how far a comparison is. This one shows nothing."""

    def says(self, sentence: str) -> None:
        """What is done now, or what the user must know."""

    def begins(self, repeat: int, repeats: int, contestants: dict[str, Contestant]) -> None:
        """A repeat, counted from 1, begins or goes on."""

    def turn(self, name: str, contestant: Contestant) -> None:
        """An arm has taken a turn."""


def score_of(contestant: Contestant) -> str:
    """The last score so far, with its unit; "": there is none."""
    scores = [point.score for point in contestant.curve[-1:] if point.score is not None]
    return f"{scores[0]:.4g} {contestant.training.task.metric}" if scores else ""


class Lines(Watch):
    """A line for each evaluation."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._repeat = ""
        self._shown: dict[str, int] = {}

    def says(self, sentence: str) -> None:
        print(sentence, file=self._stream, flush=True)

    def begins(self, repeat: int, repeats: int, contestants: dict[str, Contestant]) -> None:
        self._repeat = f"repeat {repeat} of {repeats}"
        self._shown = {name: len(one.curve) for name, one in contestants.items()}

    def turn(self, name: str, contestant: Contestant) -> None:
        if len(contestant.curve) == self._shown[name] and not contestant.training.broken:
            return
        self._shown[name] = len(contestant.curve)
        training = contestant.training
        news = score_of(contestant) or training.broken
        self.says(f"{self._repeat}, {name}: {training.step} of {training.size.steps} steps, {contestant.total_s:.1f} s, {news}")


class Bars(Watch):
    """A bar for each arm of the present repeat."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._bars: dict[str, Any] = {}

    def says(self, sentence: str) -> None:
        self._progress.console.print(sentence, highlight=False)

    def begins(self, repeat: int, repeats: int, contestants: dict[str, Contestant]) -> None:
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self.says(f"repeat {repeat} of {repeats}")
        self._bars = {
            name: self._progress.add_task(name, total=one.training.size.steps, score="") for name, one in contestants.items()
        }
        for name, one in contestants.items():
            self.turn(name, one)

    def turn(self, name: str, contestant: Contestant) -> None:
        self._progress.update(self._bars[name], completed=contestant.training.step, score=score_of(contestant))


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Watch]:
    """Bars, or lines, on this stream; None: standard error."""
    stream = stream or sys.stderr
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield Lines(stream)
        return
    console = Console(file=stream)
    if not console.is_terminal:
        yield Lines(stream)
        return
    columns = (
        TextColumn("{task.description:<24}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("steps {task.fields[score]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
