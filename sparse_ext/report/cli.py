"""`python -m sparse_ext report`: pages of a comparison's JSON, or two comparisons beside each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import beside, codec, markdown, page
from .exports import annex_xi, spdx, stages
from .record import Record
from .verdict import judged

# {file name: its text, of a judged record; None: there is nothing to write}
PAGES: dict[str, Callable[[Record], str | None]] = {
    "report.html": page.html,
    "report.md": markdown.page,
    "energy.spdx.json": spdx.document,
    "annex_xi.md": annex_xi.page,
    "stages.csv": stages.table,
}


def write_pages(record: Record, folder: Path) -> list[Path]:
    """Writes every page of a judged record into the folder, which is made if there is none; returns their paths.

    A page that this record has not is removed: another record's would be taken for its own. So is one that needs what is not
    installed; standard error then says how to install that.
    """
    texts = {folder / name: _text(name, record) for name in PAGES}
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
    return [_write(path, text) for path, text in texts.items() if text is not None]


def _text(name: str, record: Record) -> str | None:
    try:
        return PAGES[name](record)
    except ModuleNotFoundError as error:
        print(f"{name} was not written: {error}", file=sys.stderr)
        return None


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def command(arguments: list[str]) -> None:
    """The command. Verdicts are reached anew, by the rules of this version, from the runs of the JSON."""
    parser = argparse.ArgumentParser(prog="python -m sparse_ext report", description=__doc__)
    parser.add_argument("record", type=Path, help="JSON of a comparison")
    parser.add_argument("other", type=Path, nargs="?", help="another one: the two are printed beside each other")
    parser.add_argument("--out", type=Path, help="folder of the pages; default: that of the JSON. Of two, beside.md goes there")
    args = parser.parse_args(arguments)
    try:
        print(_one(args.record, args.out) if args.other is None else _two(args.record, args.other, args.out))
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def _one(path: Path, out: Path | None) -> str:
    record = _judged(path)
    paths = write_pages(record, path.parent if out is None else out)
    return "\n".join([*record.headline, "", *map(str, paths)])


def _two(one: Path, other: Path, out: Path | None) -> str:
    records = _judged(one), _judged(other)
    names = (one.name, other.name) if one.name != other.name else (str(one), str(other))
    shown = [beside.text(*records, names)]
    if out is not None:
        shown.append(str(_write(out / "beside.md", beside.page(*records, names))))
    return "\n\n".join(shown)


def _judged(path: Path) -> Record:
    record = codec.read(path)
    try:
        return judged(record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
