"""Writes what docs/methods.md and README.md list of METHODS: the docs' table and the README's, from each method's `about`.

    python tools/methods.py

Each stands between two comments, `<!-- methods -->` and `<!-- end of methods -->`. `tests/methods/test_docs.py` looks whether
they are up to date. A method from outside the package is not listed.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import sparse_ext as sx

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- methods -->", "<!-- end of methods -->"


def built_in() -> dict[str, Any]:
    """{name: class} of the package's own methods."""
    return {name: kind for name, kind in sx.METHODS.items() if kind.__module__.startswith("sparse_ext.")}


def table() -> str:
    """A row for each method that says something of itself: its source, its costs as shares of a dense layer's, its defaults."""
    lines = [
        "| method | source | forward | input gradient | weight gradient | optimizer memory | good for | defaults |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, kind in built_in().items():
        if (about := kind.about) is not None:
            costs = (about.forward, about.grad_input, about.grad_weight, about.optimizer_memory)
            cells = [f"`{kind.__name__}` ({name})", linked(about.source), *costs, about.good_for, defaults(kind)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def short_table() -> str:
    """Of each method, its source, and when to choose it."""
    rows = [(kind.__name__, kind.about) for kind in built_in().values() if kind.about is not None]
    lines = [f"| `{name}` | {linked(about.source)} | {about.good_for} |" for name, about in rows]
    return "\n".join(["| method | source | good for |", "|---|---|---|", *lines])


def linked(source: str) -> str:
    """A source whose address follows its name, as a link."""
    found = re.fullmatch(r"([^\[]*?),? \(?(https?://[^\s)]+)\)?", source)
    return f"[{found[1]}]({found[2]})" if found else source


def defaults(kind: Any) -> str:
    """The hyper-parameters with their defaults, as in a call."""
    return ", ".join(f"`{field.name}={_value(field)}`" for field in fields(kind)) or "none"


def _value(field: Any) -> str:
    if field.default is MISSING:
        return "..." if field.default_factory is MISSING else repr(field.default_factory())
    return (
        f"{field.default:.4g}"
        if isinstance(field.default, float) and field.default != round(field.default)
        else repr(field.default)
    )


def written(document: str, block: str) -> str:
    """The document with this block between its two comments; ValueError if these are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected {BEGIN} and {END} in the document, got one without")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


TARGETS = {ROOT / "docs" / "methods.md": table, ROOT / "README.md": short_table}


def main() -> None:
    for target, block in TARGETS.items():
        target.write_text(written(target.read_text(), block()))


if __name__ == "__main__":
    main()
