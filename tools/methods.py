"""Writes what docs/methods.md and README.md list of METHODS, from each method's `about`, and what `make accuracy` measured.

    python tools/methods.py

Each table stands between two comments, such as `<!-- methods -->` and `<!-- end of methods -->`. `tests/methods/test_docs.py`
looks whether they are up to date. A method from outside the package is not listed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import sparse_ext as sx

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "accuracy.jsonl"
# Which results a claim is compared with: names that begin so in accuracy/contenders.py.
CLAIMS = {"dynamic sparse training": ("static", "rigl"), "EST-DGM": ("est-dgm",), "SAT": ("sat",)}


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


def measured(claim: str, results: Path = RESULTS) -> str:
    """Of the claim's methods, what `make accuracy` found, with the first initialisation of each task."""
    rows = list(_measured(CLAIMS[claim], results)) if results.exists() else []
    if not rows:
        return "Not measured yet."
    head = "| task | method | zeros | score | dense | FLOPs | mean density | dense at equal FLOPs |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


def _measured(names: tuple[str, ...], results: Path) -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from accuracy.report import tables_of
    from accuracy.store import load
    from accuracy.table import cell, digits_of, spread
    from accuracy.tasks import TASKS

    for table in tables_of(load(results), TASKS).values():
        dense, places = table.dense(), digits_of(table.row)
        for name in [one for one in table.names(table.first_init) if one.startswith(names)]:
            for zeros in table.sparsities(table.first_init):
                if group := table.method(name, zeros):
                    score = f"{spread(list(group.scores.values()), places)} {table.row.unit}"
                    flops = group.of("flops")
                    cells = [cell(flops, 3), cell(group.of("density"), 3), cell(table.at_share(flops), places)]
                    best = cell(dense.score if dense else None, places)
                    yield "| " + " | ".join([table.row.name, name, f"{zeros:.1%}", score, best, *cells]) + " |"


# ---- writing ---------------------------------------------------------------------------------------------------------


def written(document: str, blocks: dict[str, str]) -> str:
    """The document with each block between the two comments of its name; ValueError if these are missing."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, begins, rest = document.partition(begin)
        _, ends, after = rest.partition(end)
        if not (begins and ends):
            raise ValueError(f"expected {begin} and {end} in the document, got one without")
        document = f"{before}{begin}\n{block}\n{end}{after}"
    return document


def documents() -> dict[Path, str]:
    """{file: its text as it should be}."""
    measures = {f"measured: {claim}": measured(claim) for claim in CLAIMS}
    blocks = {ROOT / "docs" / "methods.md": {"methods": table(), **measures}, ROOT / "README.md": {"methods": short_table()}}
    return {path: written(path.read_text(), of) for path, of in blocks.items()}


def main() -> None:
    for path, text in documents().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
