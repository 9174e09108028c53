"""The file of results: a line of JSON for each run, appended as soon as it is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .plan import Rows


def load(path: Path) -> Rows:
    """The whole lines of the file; none if there is no file. A last line without its end was cut off, and does not count."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n") and line.strip()]


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds a line; one that was cut off before gives way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, default=str) + "\n").encode()
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.write(line)
