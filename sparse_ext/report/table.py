"""A table as text: in Markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """With a line for the head, one below it, and one for each row."""
    return "\n".join([_cells(head), "|" + "---|" * len(head), *map(_cells, rows)])


def _cells(row: Row) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"


def terminal(head: Row, rows: Sequence[Row]) -> str:
    """Columns of equal width, two spaces between them."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
