"""A table as text: in Markdown, and for a terminal. Why a cell is unknown stands below the table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from . import figures

Row = Sequence[str]


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """With a line for the head, one below it, and one for each row; the reasons are a list."""
    short, reasons = _with_reasons_below(rows)
    lines = [_cells(head), "|" + "---|" * len(head), *map(_cells, short)]
    return "\n".join([*lines, *([""] if reasons else []), *(f"- {reason}" for reason in reasons)])


def _cells(row: Row) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"


def terminal(head: Row, rows: Sequence[Row], right: Collection[int] = ()) -> str:
    """Columns of equal width, two spaces between them. right: the columns that end, and do not begin, below each other."""
    short, reasons = _with_reasons_below(rows)
    lines = [head, *short]
    forms = [f"{{:{'>' if at in right else '<'}{max(map(len, column))}}}" for at, column in enumerate(zip(*lines, strict=True))]
    padded = ["  ".join(form.format(cell) for form, cell in zip(forms, line, strict=True)).rstrip() for line in lines]
    return "\n".join([*padded, *reasons])


def _with_reasons_below(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Cells that are unknown become "unknown (1)"; and "(1) unknown, because ...", each reason once."""
    places: dict[str, int] = {}
    short: list[Row] = []
    for row in rows:
        cells = []
        for cell in row:
            if cell.startswith(figures.UNKNOWN):
                cell = f"unknown ({places.setdefault(cell, len(places) + 1)})"
            cells.append(cell)
        short.append(cells)
    return short, [f"({place}) {reason}" for reason, place in places.items()]
