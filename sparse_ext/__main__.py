"""`python -m sparse_ext`: what is installed, and why CUDA is unavailable where it is. COMMANDS are the other things it does."""

from __future__ import annotations

import sys
from importlib import import_module

# {command: (module, function of the arguments)}; what is not asked for is not imported.
COMMANDS = {
    "calibrate": ("sparse_ext.calibrate", "calibrate"),
    "compare": ("sparse_ext.compare.cli", "command"),
    "estimate": ("sparse_ext.forecast.command", "command"),
    "report": ("sparse_ext.report.cli", "report"),
}


def main(arguments: list[str]) -> None:
    if not arguments:
        import_module("sparse_ext.config").show_config()
    elif arguments[0] in COMMANDS:
        module, function = COMMANDS[arguments[0]]
        getattr(import_module(module), function)(arguments[1:])
    else:
        known = ", ".join(f"`{name}`" for name in COMMANDS)
        sys.exit(f"expected `python -m sparse_ext`, or one of its commands ({known}), got {' '.join(arguments)!r}")


main(sys.argv[1:])
