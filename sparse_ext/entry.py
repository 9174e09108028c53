"""A user's own function, named as "module:function" on the command line or in a config."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def function_named(entry: str, what: str) -> Callable[..., Any]:
    """The function; modules of the current folder are found, too.

    Args:
        entry: "module:function".
        what: the argument that names it, for messages.

    Raises:
        ValueError: there is no such module or function; the sentence says what was expected.
        ModuleNotFoundError: the module is there, and imports another one that is not.
    """
    module, colon, name = entry.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{what}: expected 'module:function', got {entry!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{what}: expected a module in this folder or an installed one, got {module!r}: {error}") from error
    function = getattr(found, name, None)
    if not callable(function):
        own = [key for key, value in vars(found).items() if callable(value) and getattr(value, "__module__", "") == module]
        raise ValueError(f"{what}: expected a function of {module} ({', '.join(own) or 'it has none'}), got {name!r}")
    return function
