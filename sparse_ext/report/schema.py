"""The JSON Schema (draft 2020-12) of a `Record`, derived from its dataclasses and their docstrings.

python -m sparse_ext.report.schema        # writes schema.json once more; a test looks whether that is up to date
"""

from __future__ import annotations

import json
import re
import types
from dataclasses import MISSING, fields, is_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .record import FORMAT, OUTCOMES, Record, Verdict

PATH = Path(__file__).with_name("schema.json")
DRAFT = "https://json-schema.org/draft/2020-12/schema"

# The unit that a field's name ends with.
UNITS = {"_s": "seconds", "_j": "joules", "_w": "watts", "_c": "degrees Celsius", "_mhz": "megahertz"}
SIMPLE = {int: "integer", float: "number", bool: "boolean", str: "string"}
# {(class, field): the values that it may have}; a file without such a field is refused, even if it has a default.
ALLOWED: dict[tuple[type, str], tuple[Any, ...]] = {(Record, "format"): (FORMAT,), (Verdict, "outcome"): OUTCOMES}


def schema() -> dict[str, Any]:
    """As plain values."""
    definitions: dict[str, Any] = {}
    _define(Record, definitions)
    return {"$schema": DRAFT, "title": "A comparison by sparse_ext", "$ref": "#/$defs/Record", "$defs": definitions}


def text() -> str:
    """As it is committed."""
    return json.dumps(schema(), indent=1) + "\n"


def _define(kind: type, definitions: dict[str, Any]) -> None:
    """Adds a dataclass, and those that it is made of."""
    if kind.__name__ in definitions:
        return
    definitions[kind.__name__] = {}  # its place, and an end of recursion
    about, described = _documentation(kind)
    hints = get_type_hints(kind)
    properties, needed = {}, []
    for one in fields(kind):
        allowed, optional = ALLOWED.get((kind, one.name)), one.default is not MISSING or one.default_factory is not MISSING
        properties[one.name] = _type(hints[one.name], definitions)
        if allowed:
            properties[one.name]["enum"] = list(allowed)
        if described[one.name]:
            properties[one.name]["description"] = described[one.name]
        if allowed or not optional:
            needed.append(one.name)
    definitions[kind.__name__] = {
        "description": about,
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def _type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """A field's type."""
    if is_dataclass(kind) and isinstance(kind, type):
        _define(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if one is type(None) else _type(one, definitions) for one in args]}
    if origin is tuple:
        return {"type": "array", "items": _type(args[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(args[1], definitions)}
    return {} if kind is Any else {"type": SIMPLE[kind]}


def _documentation(kind: type) -> tuple[str, dict[str, str]]:
    """What a class is, and {field: what it is, with the unit of its name}."""
    about, _, attributes = cleandoc(kind.__doc__ or "").partition("\n\nAttributes:\n")
    names = [one.name for one in fields(kind)]
    # An entry is one name or several, and a colon; it begins a line or follows a full stop.
    any_name = "|".join(map(re.escape, names))
    entry = re.compile(rf"(?:^|(?<=[.;] ))((?:(?:{any_name}), )*(?:{any_name})): ")
    found = entry.split(" ".join(attributes.split()))
    described: dict[str, str] = {}
    for several, words in zip(found[1::2], found[2::2], strict=True):
        described |= dict.fromkeys(several.split(", "), words.strip())
    return " ".join(about.split()), {name: _with_unit(name, described.get(name, "")) for name in names}


def _with_unit(name: str, words: str) -> str:
    unit = UNITS.get(f"_{name.rpartition('_')[2]}") if "_" in name else None
    return " ".join(filter(None, [words, unit and f"In {unit}."]))


if __name__ == "__main__":
    PATH.write_text(text())
