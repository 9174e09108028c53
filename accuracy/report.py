"""docs/accuracy.md and its plots, from the file of results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sparse_ext.report.table import markdown

from .bars import BARS
from .contenders import DENSE
from .plan import Rows
from .table import Group, Table, cell, counted, digits_of, spread
from .tasks import Calibrated

INTRODUCTION = """# Accuracy

Written by `make accuracy` from [bench/results/accuracy.jsonl](../bench/results/accuracy.jsonl); no number is from elsewhere.
Every method of `sparse_ext.METHODS` trains four small tasks whose data is on every machine. Scores are means and standard
deviations over seeds, of the last step, not of the best. A method has its default choices and the task's own update interval;
what differs is a row in `accuracy/contenders.py`. "masked": sparse layers begin with the dense layers' values at a random
pattern. "variance", the default of `sparsify_`: with values for the sparse fan-in.
"""
COLUMNS = """
FLOPs: of the whole training, forward and backward, as executed, relative to the dense run: all layers count, and the dense
gradients of observed steps. Density: mean over all steps, of all layers that could be sparse. Seconds: of the steps, updates
included, relative to dense steps in turns with them, one thread: these layers are so small that overheads decide, not products.
The last two columns are dense runs which get as many FLOPs, or as many seconds, as the method: scores between the budgets that
were run are interpolated; "-" is outside them, or missing.
"""


# Of the report's folder.
PLOTS = "plots/accuracy"


def costs_plot(task: str) -> str:
    return f"{PLOTS}/{task}-flops.png"


def schedules_plot(task: str) -> str:
    return f"{PLOTS}/{task}-schedules.png"


def percent(sparsity: float) -> str:
    """Of zeros."""
    return f"{sparsity:.1%}".replace(".0%", "%") if sparsity else "none"


def _scores(group: Group | None, row: Calibrated) -> str:
    return "" if group is None else spread(list(group.scores.values()), digits_of(row))


def score_table(table: Table, init: str) -> str:
    """Methods over sparsities."""
    zeros, rows = table.sparsities(init), []
    for name in table.names(init):
        groups = [table.method(name, s, init) for s in zeros]
        seeds = max(len(group.rows) for group in groups if group)
        rows.append([name, str(seeds), *(_scores(group, table.row) for group in groups)])
    return markdown(["", "seeds", *map(percent, zeros)], rows)


def cost_table(table: Table, init: str) -> str:
    """What each of them costs, and what dense training has for as much."""
    head = ["method", "zeros", table.row.unit, "FLOPs", "density", "seconds", "dense, equal FLOPs", "dense, equal seconds"]
    places, rows = digits_of(table.row), []
    for name in table.names(init):
        for sparsity in table.sparsities(init):
            if group := table.method(name, sparsity, init):
                flops, seconds = group.of("flops"), group.of("seconds")
                rows.append([
                    name, percent(sparsity), cell(group.score, places), cell(flops, 3), cell(group.of("density"), 3),
                    cell(seconds, 2), cell(table.at_share(flops), places), cell(table.at_share(seconds), places),
                ])  # fmt: skip
    return markdown(head, rows)


def dense_table(table: Table) -> str:
    """Dense training of other lengths."""
    budgets = sorted(g.budget for g in table.groups.values() if g.method == DENSE and g.budget is not None)
    row = [table.row.unit, *(_scores(table.dense(budget), table.row) for budget in budgets)]
    return markdown(["dense, share of its steps", *(f"{budget:g}" for budget in budgets)], [row])


def bar_table(tables: dict[str, Table]) -> str:
    """Every bar of these tasks, and whether it holds."""
    rows = []
    for bar in BARS:
        if bar.task in tables:
            verdict, measured = bar.verdict(tables[bar.task])
            rows.append([bar.task, bar.text, measured, verdict])
    return markdown(["task", "bar", "measured", ""], rows)


def schedules(table: Table) -> list[Group]:
    """The groups with equal FLOPs, by method, denser ones first."""
    groups = [g for g in table.groups.values() if g.method != DENSE and g.budget is not None]
    order = list(dict.fromkeys(g.method for g in groups))
    return sorted(groups, key=lambda g: (order.index(g.method), g.sparsity))


def schedule_table(groups: list[Group], row: Calibrated) -> str:
    """Schedules of density at equal FLOPs."""
    head = ["schedule", "zeros at the end", "mean density", "steps", "FLOPs", "held-out loss", row.unit]
    rows = []
    for group in groups:
        losses = [one["loss"] for one in group.rows]
        rows.append([
            group.method, percent(group.sparsity), cell(group.of("density"), 3), cell(group.of("steps"), 0),
            cell(group.of("flops"), 3), spread(losses, 3), _scores(group, row),
        ])  # fmt: skip
    return markdown(head, rows)


def _task_section(table: Table) -> Iterator[str]:
    row = table.row
    yield from ("", f"## {row.name}", "", row.about)
    if dense := table.dense():
        yield from ("", f"Dense: {_scores(dense, row)} {row.unit}, {counted(len(dense.rows))}.")
    if row.remark:
        yield from ("", row.remark)
    for init in row.inits:
        if table.names(init):
            yield from ("", f'{row.unit}, init="{init}":', "", score_table(table, init))
    if any(g.method == DENSE for g in table.groups.values()):
        yield from ("", dense_table(table))
    if table.names(table.first_init):
        yield from ("", f'What they cost, init="{table.first_init}":', "", cost_table(table, table.first_init))
        yield from ("", f"![{row.name}: {row.unit} over FLOPs]({costs_plot(row.name)})")
    if groups := schedules(table):
        yield from (
            "", f"### {row.name}: schedules at {row.equal_flops:g} of the dense FLOPs", "",
            "Each has as many steps as these FLOPs pay for: the sparser, the more.", "", schedule_table(groups, row), "",
            f"![{row.name}: loss over mean density]({schedules_plot(row.name)})",
        )  # fmt: skip


def _origin(rows: Rows) -> str:
    """Machines, versions and commits of all rows."""
    columns = {name: sorted({str(row[name]) for row in rows}) for name in ("cpu", "isa", "python", "torch", "commit")}
    return "; ".join(f"{name} {', '.join(values)}" for name, values in columns.items()) + "."


def tables_of(rows: Rows, tasks: dict[str, Calibrated]) -> dict[str, Table]:
    """Of the tasks that have results."""
    return {name: table for name, row in tasks.items() if (table := Table(rows, row)).rows}


def text(tables: dict[str, Table]) -> str:
    lines = [INTRODUCTION]
    if tables:
        lines += ["## Bars", "", "With the first initialisation of each task.", "", bar_table(tables), COLUMNS.rstrip()]
    for table in tables.values():
        lines += _task_section(table)
    if tables:
        lines += ["", "## Where this was measured", "", _origin([row for table in tables.values() for row in table.rows])]
    return "\n".join(lines) + "\n"


def write(rows: Rows, tasks: dict[str, Calibrated], docs: Path) -> Path:
    """Also the plots."""
    from .plots import plot_costs, plot_schedules

    (docs / PLOTS).mkdir(parents=True, exist_ok=True)
    tables = tables_of(rows, tasks)
    for name, table in tables.items():
        if table.names(table.first_init):
            plot_costs(table, docs / costs_plot(name))
        if groups := schedules(table):
            plot_schedules(groups, table.row, docs / schedules_plot(name))
    path = docs / "accuracy.md"
    path.write_text(text(tables))
    return path
