"""A `Record` to JSON and back. What does not fit is refused with its place in the file."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .record import FORMAT, Record

_hints = cache(get_type_hints)


def write(record: Record, path: Path) -> Path:
    """Writes the record's JSON."""
    return write_json(asdict(record), path)


def write_json(values: Any, path: Path) -> Path:
    """Writes plain values. A file that is there already is replaced at once, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    unfinished.replace(path)
    return path


def read(path: Path) -> Record:
    """The record in a JSON file.

    Raises:
        ValueError: the file holds none, or one of another format.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(), parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{path}: expected a report's JSON, got {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: expected a report of format {FORMAT}, got {found!r}")
    record: Record = build(Record, data, str(path))
    return record


def _no_number(name: str) -> None:
    raise ValueError(f"{name}, which JSON does not have")


def build(kind: Any, value: Any, where: str) -> Any:
    """The value of JSON as this type, such as a dataclass of a dict. `where`: its place, for messages.

    Raises:
        ValueError: it does not fit.
    """
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [one for one in args if one is not type(None)]
        return None if value is None else build(inner, value, where)
    if origin is tuple:
        _expect(value, list, where)
        return tuple(build(args[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        _expect(value, dict, where)
        return {name: build(args[1], one, f"{where}.{name}") for name, one in value.items()}
    if kind is float:
        _expect(value, (int, float), where)
        if not abs(value) <= sys.float_info.max:
            raise ValueError(f"{where}: expected a finite number, got one beyond {sys.float_info.max:.2g}")
        return float(value)
    if kind is not Any:
        _expect(value, kind, where)
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(value, dict, where)
    known = {one.name: one for one in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(f"{where}: expected {', '.join(known)}, got {unknown[0]!r} as well")
    needed = [name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where}: expected {missing[0]!r}, got none")
    hints = _hints(kind)
    return kind(**{name: build(hints[name], one, f"{where}.{name}") for name, one in value.items()})


def _expect(value: Any, kind: Any, where: str) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{where}: expected {' or '.join(one.__name__ for one in kinds)}, got {type(value).__name__}")
