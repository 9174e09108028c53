"""All figures: small tables, a row for each arm, means over its runs; and one row for every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .. import figures
from ..amounts import UNKNOWN, number, unit_for
from ..record import Record
from ..run import Run
from .arms import SPENT, Shown, mean
from .memory import PARTS
from .scores import Scores
from .words import sentence

NONE = "–"


@dataclass(frozen=True)
class Column:
    heading: str
    quantity: str
    value: Callable[[Run], float | None]


@dataclass(frozen=True)
class Row:
    shown: Shown
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """`headings`: words and a unit. `rows`: none where nothing is known. `notes`: why something is unknown."""

    heading: str
    headings: list[tuple[str, str]]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


TIME = (
    Column("total", "seconds", lambda run: run.seconds.total_s),
    Column("training", "seconds", lambda run: run.seconds.train_s),
    Column("of that, updates", "seconds", lambda run: run.seconds.updates_s),
    Column("evaluation", "seconds", lambda run: run.seconds.evaluation_s),
    Column("warm-up, not counted", "seconds", lambda run: run.seconds.warm_up_s),
    Column("hardware", "days", lambda run: run.hardware_days),
)
ENERGY = (
    Column("gross", "joules", lambda run: run.energy.gross_j),
    Column("without idle power", "joules", lambda run: run.energy.net_j),
    Column("a sample", "joules", lambda run: run.energy.per_sample_j),
    Column("mean power", "watts", lambda run: run.energy.mean_w),
)
WORK = (
    Column("executed", "flops", lambda run: run.flops),
    Column("planned", "flops", lambda run: run.planned_flops),
    Column("steps", "count", lambda run: run.steps),
    Column("samples", "count", lambda run: run.samples),
    Column("mean density", "share", lambda run: run.average_density),
    Column("coverage", "share", lambda run: run.coverage),
)
MEMORY = (
    Column("peak", "bytes", lambda run: run.memory.total),
    *(Column(part.name, "bytes", part.of) for part in PARTS),
)
GROUPS = (("Time", TIME), ("Work", WORK), ("Peak memory of a training step", MEMORY), ("Energy", ENERGY))
EVERY_RUN = (
    Column("steps", "count", lambda run: run.steps),
    TIME[0],
    WORK[0],
    ENERGY[0],
    MEMORY[0],
    *WORK[4:],
    Column("before", "celsius", lambda run: run.temperature_before_c),
    Column("after", "celsius", lambda run: run.temperature_after_c),
)


def tables(record: Record, arms: Sequence[Shown]) -> list[Table]:
    return [_quality(record, arms), *(_means(heading, columns, arms) for heading, columns in GROUPS), _target(record, arms)]


def every_run(record: Record, arms: Sequence[Shown]) -> Table:
    """One row for each run: its arm and its figures."""
    scores = Scores.of(record)
    runs = [(one, run) for one in arms for run in one.arm.runs]
    headings, cells = _columns(EVERY_RUN, [[run] for _, run in runs])
    rows = [
        Row(one, [str(run.seed), scores.text(run.score), *these, "yes" if run.stopped_early else "no"])
        for (one, run), these in zip(runs, cells, strict=True)
    ]
    return Table("Every run", [("seed", ""), (record.metric.name, ""), *headings, ("stopped early", "")], rows)


def _means(heading: str, columns: Sequence[Column], arms: Sequence[Shown]) -> Table:
    headings, cells = _columns(columns, [one.arm.runs for one in arms])
    rows = [Row(one, these) for one, these in zip(arms, cells, strict=True)]
    unknown = all(cell == UNKNOWN for row in rows for cell in row.cells)
    whys = {run.energy.why for one in arms for run in one.arm.runs if run.energy.why} if columns is ENERGY else set()
    return Table(heading, headings, [] if unknown else rows, [sentence(figures.unknown(why)) for why in sorted(whys)])


def _columns(columns: Sequence[Column], groups: Sequence[Sequence[Run]]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headings with the unit of each column, and for each group of runs its means."""
    values = [[mean(runs, column.value) for column in columns] for runs in groups]
    units = [unit_for(column.quantity, [row[i] for row in values]) for i, column in enumerate(columns)]
    headings = [(column.heading, unit.name) for column, unit in zip(columns, units, strict=True)]
    cells = [[number(x if x is None else x / unit.factor) for x, unit in zip(row, units, strict=True)] for row in values]
    return headings, cells


def _quality(record: Record, arms: Sequence[Shown]) -> Table:
    scores = Scores.of(record)
    rows = [
        Row(
            one,
            [
                scores.mean(one.arm),
                scores.interval(one.arm.score) or NONE,
                scores.text(one.arm.loss.mean) if one.arm.loss else NONE,
                scores.interval(one.arm.loss) or NONE,
                str(len(one.arm.runs)),
            ],
        )
        for one in arms
    ]
    headings = [(record.metric.name, ""), ("95 % interval", ""), ("loss", ""), ("95 % interval", ""), ("runs", "")]
    return Table("Quality", headings, rows)


def _target(record: Record, arms: Sequence[Shown]) -> Table:
    """What was spent when an evaluation first was as good as the reference."""
    heading = f"Spent until as good as {record.arms[0].name}"
    targets = {one: one.arm.target for one in arms if one.arm.target is not None}
    if not targets:
        return Table(heading, [], [], [sentence(figures.unknown("it has no mean score"))])
    rows = {one: [f"{target.reached} of {len(one.arm.runs)}"] for one, target in targets.items()}
    headings = [("runs that were", "")]
    for name in ("seconds", "flops", "joules"):
        found = {one: getattr(target, name) for one, target in targets.items()}
        unit = unit_for(name, [each and each.mean for each in found.values()])
        headings.append((SPENT[name].heading, unit.name))
        for one, each in found.items():
            rows[one].append(number(each and each.mean / unit.factor))
    whys = [f"{one.name}: {figures.unknown(target.why)}." for one, target in targets.items() if target.why]
    return Table(heading, headings, [Row(one, cells) for one, cells in rows.items()], whys)
