"""Time, energy and clock frequency of pipeline stages, each measured on its own, for a planner of frequencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from math import ceil, inf
from statistics import median
from typing import Any

from torch import nn

from ..report import figures
from ..report.run import Stage
from .calls import Call, record
from .sm_clock import GpuClock, SmClock, Unmeasured

# A counter that moves once a period is off by up to one at either end of a window: by 4 % of 50 periods.
PERIODS = 50
# Splitting needs times only, of which a window this long gives enough digits.
SPLIT_WINDOW_S = 0.1
CLOCK_SAMPLES = 8

Names = Mapping[int, Sequence[str]]


def measure_stages(
    model: nn.Module,
    step: Callable[[], object],
    stages: int | Names,
    meter: Any,
    *,
    clock: GpuClock | None = None,
    frequencies: Sequence[int] = (),
    window_s: float = 1.0,
) -> tuple[tuple[Stage, ...], str | None]:
    """Each stage's forward and backward pass alone, on the inputs and gradients of one training step.

    A pass is repeated until the window suffices for the meter. What the model computes outside its modules is in no stage.
    Repeated forward passes move running statistics and random numbers: call this when training is over.

    Args:
        step: runs one forward and backward pass of the model.
        stages: how many, which splits the modules that the model calls into runs of about equal time; or {stage: patterns of
            module names}, numbered from 0.
        meter: an EnergyMeter, or what has its windows.
        clock: of the GPU; None: that of the model's.
        frequencies: MHz, to which the clock is locked in turn, which needs administrator rights; none: the clock is left alone.
        window_s: the shortest window, in seconds.

    Returns:
        The stages at each frequency, in seconds and joules of one pass, and None; or none and a sentence that says why.

    Raises:
        ValueError: stages that cannot be made of this model.
    """
    try:
        clock = clock or SmClock(next(model.parameters()).device)
        parts = _split(model, step, stages, meter) if isinstance(stages, int) else _named(model, step, stages)
        found: list[Stage] = []
        for mhz in frequencies or (None,):
            with nullcontext() if mhz is None else clock.locked(mhz):
                found += (
                    _measured(number, which, part, meter, clock, window_s)
                    for number, part in enumerate(parts)
                    for which in PASSES
                )
        return tuple(found), None
    except Unmeasured as error:
        return (), str(error)


Work = list[Callable[[], object]]


def _forward(calls: Sequence[Call]) -> Work:
    return [call.forward for call in calls]


def _backward(calls: Sequence[Call]) -> Work:
    return [run for call in reversed(calls) if (run := call.backward()) is not None]


# {instruction: what a stage's calls run}
PASSES: dict[str, Callable[[Sequence[Call]], Work]] = {"forward": _forward, "backward": _backward}


def _measured(number: int, which: str, calls: Sequence[Call], meter: Any, clock: GpuClock, window_s: float) -> Stage:
    name = f"stage {number} {which}"
    work = PASSES[which](calls)
    if not work:
        raise Unmeasured(f"{name}: there is none, as nothing in the stage has a gradient")
    reading, repeats, mhz = _window(meter, name, work, window_s, PERIODS, clock)
    if reading.joules is None:
        raise Unmeasured(f"{name}: the energy is {figures.unknown(reading.why)}")
    return Stage(number, which, round(median(mhz)), reading.seconds / repeats, reading.joules / repeats)


def _window(
    meter: Any, name: str, work: Work, least_s: float, periods: int, clock: GpuClock | None = None
) -> tuple[Any, int, list[int]]:
    """A window of seconds and of the meter's periods: its reading, the repeats in it, and the clock's frequencies meanwhile."""
    repeats = 1
    while True:
        every, mhz = ceil(repeats / CLOCK_SAMPLES), []
        meter.begin_window(name)
        try:
            for repeat in range(repeats):
                for one in work:
                    one()
                if clock is not None and repeat % every == 0:
                    mhz.append(clock.mhz())  # the device is still busy with what was asked of it
        finally:
            reading = meter.end_window(name)
        wanted = max(least_s, periods * (reading.period_s or 0.0))
        if reading.seconds >= wanted:
            return reading, repeats, mhz
        more = 1.1 * repeats * wanted / max(reading.seconds, 1e-9)
        repeats = max(repeats + 1, min(100 * repeats, ceil(more)))


def _split(model: nn.Module, step: Callable[[], object], count: int, meter: Any) -> list[list[Call]]:
    """The calls of each stage: consecutive ones, so that the slowest stage is as fast as it can be."""
    calls = record(model, step)
    if not 1 <= count <= len(calls):
        raise ValueError(
            f"stages: expected 1 to {len(calls)}, as many as the model itself calls, or names of modules; got {count}"
        )
    seconds = []
    for call in calls:
        reading, repeats, _ = _window(meter, call.name, [*_forward([call]), *_backward([call])], SPLIT_WINDOW_S, 0)
        seconds.append(reading.seconds / repeats)
    ends = [0, *even_cuts(seconds, count), len(calls)]
    return [calls[first:last] for first, last in pairwise(ends)]


def even_cuts(seconds: Sequence[float], count: int) -> tuple[int, ...]:
    """Where to cut a sequence so that of `count` parts, none of them empty, the longest is as short as possible."""

    @cache
    def best(first: int, parts: int) -> tuple[float, tuple[int, ...]]:
        if parts == 1:
            return float(sum(seconds[first:])), ()
        found: tuple[float, tuple[int, ...]] = (inf, ())
        for cut in range(first + 1, len(seconds) - parts + 2):
            longest, cuts = best(cut, parts - 1)
            found = min(found, (max(sum(seconds[first:cut]), longest), (cut, *cuts)))
        return found

    return best(0, count)[1]


def _named(model: nn.Module, step: Callable[[], object], stages: Names) -> list[list[Call]]:
    """The calls of each stage, of the outermost modules that match its patterns."""
    if sorted(stages) != list(range(len(stages))) or not stages:
        raise ValueError(f"stages: expected them numbered 0, 1, ..., got {sorted(stages)}")
    stage_of: dict[str, int] = {}
    for number in sorted(stages):
        for name in _matching(model, stages[number]):
            if stage_of.setdefault(name, number) != number:
                raise ValueError(f"stages: expected {name!r} in one stage, got it in {stage_of[name]} and {number}")
    for parameter, _ in model.named_parameters():
        if "." in parameter and not any(parameter.startswith(f"{name}.") for name in stage_of):
            raise ValueError(f"stages: expected every module's parameters in a stage, got {parameter!r} in none")
    calls = record(model, step, stage_of)
    parts = [[call for call in calls if stage_of[call.name] == number] for number in range(len(stages))]
    if [] in parts:
        raise ValueError(
            f"stages: expected a step to call modules of each stage outside of others', got none of {parts.index([])}"
        )
    return parts


def _matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    found: list[str] = []
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"stages: expected a module whose name matches {pattern!r}, got none")
        found += matched
    return found
