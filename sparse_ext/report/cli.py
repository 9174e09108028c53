"""`python -m sparse_ext report`: the pages that are made of a comparison's JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import codec, markdown
from .record import Record

# {file name: its text, of a judged record}
PAGES: dict[str, Callable[[Record], str]] = {"report.md": markdown.page}


def write_pages(record: Record, folder: Path) -> list[Path]:
    """Writes every page of the record into the folder, which is made if there is none; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in PAGES.items():
        path = folder / name
        path.write_text(text(record), encoding="utf-8")
        paths.append(path)
    return paths


def report(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m sparse_ext report", description=__doc__)
    parser.add_argument("record", type=Path, help="JSON of a comparison")
    parser.add_argument("--out", type=Path, help="folder of the pages; default: that of the JSON")
    args = parser.parse_args(arguments)
    try:
        record = codec.read(args.record)
        paths = write_pages(record, args.out or args.record.parent)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(*record.headline, "", *paths, sep="\n")
