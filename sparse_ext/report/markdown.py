"""A comparison as a Markdown page: what was found, what it cost, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from statistics import fmean

from . import amounts, figures, protocol, table
from .headline import is_told
from .quantity import TABLE
from .record import Arm, Interval, Record

Column = Callable[[Arm], str]
REFERENCE = "the reference"

# {head: attribute of a run}
SPENT = {
    "steps": "steps",
    "seconds": "seconds.total_s",
    "of them updates": "seconds.updates_s",
    "FLOPs": "flops",
    "planned FLOPs": "planned_flops",
    "hardware-days": "hardware_days",
    "mean density": "average_density",
    "coverage": "coverage",
}
ENERGY = {
    "gross, J": "energy.gross_j",
    "less the idle machine's, J": "energy.net_j",
    "J per sample": "energy.per_sample_j",
    "mean W": "energy.mean_w",
}
MEMORY = {
    "weights": "memory.weights",
    "indices": "memory.indices",
    "gradients": "memory.gradients",
    "optimizer state": "memory.optimizer_state",
    "activations": "memory.activations",
    "peak of all": "memory.total",
}


def page(record: Record) -> str:
    """The whole page, of a record that was judged."""
    return "\n\n".join(_parts(record)) + "\n"


def _parts(record: Record) -> Iterator[str]:
    first, *rest = record.headline
    yield from (f"# {record.title}", f"**{first}**", *rest)
    yield from ("## Verdicts", _table(record, _verdict_columns(record)))
    yield from ("<details><summary>Every verdict in words</summary>", "\n".join(_sentences(record)), "</details>")
    yield from ("## What was spent", "Means over the repeats. Seconds are of training, updates of the pattern and evaluation.")
    yield _table(record, {head: partial(_mean, path) for head, path in SPENT.items()} | {"stopped early": _stopped})
    yield from ("## Energy", _energy(record))
    yield from ("## Memory", "Peak of a training step, the largest of the repeats.")
    yield _table(record, {head: partial(_largest, path) for head, path in MEMORY.items()})
    yield from ("## As good as the reference", *_target(record))
    yield from ("## How it was measured", *protocol.paragraphs(record))
    if record.notes:
        yield "\n".join(f"- {note}" for note in record.notes)
    yield from ("## Configuration", f"```json\n{json.dumps(record.config, indent=1)}\n```")


def _table(record: Record, columns: Mapping[str, Column]) -> str:
    """A row for each arm. columns: {head: cell of an arm}."""
    rows = [[arm.name, *(cell(arm) for cell in columns.values())] for arm in record.arms]
    return table.markdown(["arm", *columns], rows)


def _verdict_columns(record: Record) -> dict[str, Column]:
    columns: dict[str, Column] = {"what it is": attrgetter("about"), record.metric.name: _score}
    columns["worse by"] = partial(_loss, record.arms[0])
    return columns | {row.words: partial(_verdict, record.arms[0], name) for name, row in TABLE.items()}


def _score(arm: Arm) -> str:
    return _interval(arm.score, "a score was not finite")


def _loss(reference: Arm, arm: Arm) -> str:
    return REFERENCE if arm is reference else _interval(arm.loss, "a score was not finite")


def _verdict(reference: Arm, name: str, arm: Arm) -> str:
    """The ratio and what it comes to."""
    if arm is reference:
        return REFERENCE
    found = arm.verdicts[name]
    return found.sentence.rstrip(".") if found.ratio is None else f"{figures.interval(found.ratio)}: {found.outcome}"


def _sentences(record: Record) -> Iterator[str]:
    for arm in record.arms:
        for name, found in arm.verdicts.items():
            outcome = "" if found.ratio is None else f"{found.outcome}. "
            sentence = "unknown, as said above." if is_told(found, record) else found.sentence
            yield f"- {arm.name}, {TABLE[name].words}: {outcome}{sentence}"


def _interval(one: Interval | None, why: str | None) -> str:
    return figures.unknown(why) if one is None else figures.interval(one)


def _mean(path: str, arm: Arm) -> str:
    """Over the runs; only energy may be unknown."""
    values = [attrgetter(path)(run) for run in arm.runs]
    for run, value in zip(arm.runs, values, strict=True):
        if value is None:
            return figures.unknown(run.energy.why)
    return figures.number(fmean(values))


def _stopped(arm: Arm) -> str:
    return f"{sum(run.stopped_early for run in arm.runs)} of {len(arm.runs)}"


def _largest(path: str, arm: Arm) -> str:
    return amounts.measure(max(map(attrgetter(path), arm.runs)), "bytes")


def _energy(record: Record) -> str:
    """A table, or one sentence if nothing is known of any run."""
    if record.sensor is None:
        return f"Joules are {figures.unknown(record.sensor_why)}."
    return _table(record, {head: partial(_mean, path) for head, path in ENERGY.items()})


def _target(record: Record) -> Iterator[str]:
    """What each arm needs for the reference's quality."""
    target, metric = record.arms[0].target, record.metric
    if target is None:
        yield f"What this takes is {figures.unknown('a score of the reference was not finite')}."
        return
    yield (
        f"What an arm had spent when an evaluation first gave {figures.number(target.score)} {metric.name}: the mean of"
        f" {record.arms[0].name}, within the tolerance. A mean stands only where every run got there."
    )
    amounts = {row.words: partial(_to_target, name) for name, row in TABLE.items() if name != "bytes"}
    yield _table(record, {"runs that did": _reached, **amounts})


def _reached(arm: Arm) -> str:
    return "unknown" if arm.target is None else f"{arm.target.reached} of {len(arm.runs)}"


def _to_target(name: str, arm: Arm) -> str:
    return "unknown" if arm.target is None else _interval(getattr(arm.target, name), arm.target.why)
