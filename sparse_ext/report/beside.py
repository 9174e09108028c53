"""Two comparisons beside each other: in what they differ, and what each arm that both have has spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from json import dumps
from statistics import fmean
from typing import Any

from . import figures, protocol, table
from .quantity import TABLE, Quantity
from .record import Arm, Interval, Record, Verdict

Names = tuple[str, str]
Rows = list[list[str]]
ITSELF = "itself"  # the reference
NOT_FINITE = "a score was not finite"


def page(a: Record, b: Record, names: Names) -> str:
    """As Markdown. names: what the records are called. Both were judged."""
    return "\n\n".join([f"# {names[0]} and {names[1]}", *_parts(a, b, names, table.markdown)]) + "\n"


def text(a: Record, b: Record, names: Names) -> str:
    """For a terminal."""
    return "\n\n".join(_parts(a, b, names, table.terminal))


def _parts(a: Record, b: Record, names: Names, shown: Callable[[list[str], Rows], str]) -> Iterator[str]:
    yield " ".join(sentences(a, b, names))
    if different := settings(a, b):
        yield shown(["what differs", *names], different)
    if compared := arms(a, b):
        yield shown(["arm", "", *names, "second / first", "first / its reference", "second / its reference"], compared)


def sentences(a: Record, b: Record, names: Names) -> list[str]:
    """What a reader must know before the figures."""
    if a.entry == b.entry:
        found = [f"Both are of the task {a.entry}."]
    else:
        found = [f"These are different tasks, {a.entry} and {b.entry}: their scores cannot be compared."]
    found.append("They were not measured in turns: second / first also holds what changed between machines or days.")
    for one, other, name in ((a, b, names[0]), (b, a, names[1])):
        if alone := [arm.name for arm in one.arms if arm.name not in {arm.name for arm in other.arms}]:
            found.append(f"Only {name} has {figures.listed(alone)}.")
    return found


def settings(a: Record, b: Record) -> Rows:
    """Rows of what differs: its name, and its value in both."""
    one, other = dict(_settings(a)), dict(_settings(b))
    rows = [[name, one.get(name, "not given"), other.get(name, "not given")] for name in dict.fromkeys([*one, *other])]
    return [row for row in rows if row[1] != row[2]]


def _settings(record: Record) -> Iterator[tuple[str, str]]:
    yield "task", record.entry
    yield "seeds", figures.listed([str(run.seed) for run in record.arms[0].runs])
    yield from _flat("metric", asdict(record.metric))
    yield from _flat("machine", _known(asdict(record.machine)))
    yield from _flat("version", _known(record.versions))
    yield "energy", protocol.energy(record.sensor, record.sensor_why)
    yield from _flat("config", record.config)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "unknown" if value is None else value for name, value in values.items()}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Values of nested dictionaries, under the path of their names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value if isinstance(value, str) else dumps(value)


def arms(a: Record, b: Record) -> Rows:
    """Rows of each arm that both have: its score and each quantity, in both, one over the other, and beside its reference."""
    others = {arm.name: arm for arm in b.arms}
    both = [(arm, others[arm.name]) for arm in a.arms if arm.name in others]
    return [row for pair in both for row in (_scores(*pair, a, b), *(_spent(name, *pair) for name in TABLE))]


def _scores(one: Arm, other: Arm, a: Record, b: Record) -> list[str]:
    cells = [_interval(arm.score) for arm in (one, other)]
    losses = [f"worse by {_interval(arm.loss)}" if arm.verdicts else ITSELF for arm in (one, other)]
    return [one.name, a.metric.name, *cells, _apart(one, other, a, b), *losses]


def _interval(one: Interval | None) -> str:
    return figures.unknown(NOT_FINITE) if one is None else figures.interval(one)


def _apart(one: Arm, other: Arm, a: Record, b: Record) -> str:
    """By how much the scores differ: second - first."""
    if (a.entry, a.metric.name) != (b.entry, b.metric.name):
        return "another task"
    if one.score is None or other.score is None:
        return figures.unknown(NOT_FINITE)
    return f"{other.score.mean - one.score.mean:+.4g}"


def _spent(name: str, one: Arm, other: Arm) -> list[str]:
    quantity = TABLE[name]
    means = [_mean(quantity, arm) for arm in (one, other)]
    shares = [_share(arm.verdicts.get(name)) for arm in (one, other)]
    return [one.name, quantity.words, *(words for _, words in means), _over(means[1][0], means[0][0]), *shares]


def _mean(quantity: Quantity, arm: Arm) -> tuple[float | None, str]:
    """Over the runs, and in words."""
    values = [quantity.of(run) for run in arm.runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, figures.unknown(next(filter(None, map(quantity.why, arm.runs)), None))
    return fmean(known), figures.number(fmean(known))


def _over(value: float | None, other: float | None) -> str:
    if value is None or other is None:
        return figures.unknown("one of the two is")
    return figures.number(value / other) if other > 0 else figures.unknown(f"the first is {figures.number(other)}")


def _share(found: Verdict | None) -> str:
    """Beside its own reference; which has no verdict on itself."""
    if found is None:
        return ITSELF
    return found.sentence.rstrip(".") if found.ratio is None else f"{figures.interval(found.ratio)}, {found.outcome}"
