"""`python -m sparse_ext`: what is installed, and why CUDA is unavailable where it is. COMMANDS are the other things it does."""

from __future__ import annotations

import sys
from importlib import import_module

# {command: (the module whose `command` takes its arguments, what it does)}; what is not asked for is not imported.
COMMANDS = {
    "calibrate": ("sparse_ext.calibrate", 'measures where sparse products are faster on this machine, for layout="auto"'),
    "compare": ("sparse_ext.compare.cli", "trains dense and sparse networks in turns: what was saved?"),
    "estimate": ("sparse_ext.forecast.cli", "what training a model will cost, before anything is allocated"),
    "report": ("sparse_ext.report.cli", "the pages of a comparison, or two comparisons beside each other"),
}


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ["usage: python -m sparse_ext [command] [--help]", "", "Without a command: versions, kernels and devices.", *lines]
    )


def main(arguments: list[str]) -> None:
    if not arguments:
        import_module("sparse_ext.config").show_config()
    elif arguments[0] in COMMANDS:
        import_module(COMMANDS[arguments[0]][0]).command(arguments[1:])
    elif arguments[0] in ("-h", "--help"):
        print(usage())
    else:
        sys.exit(f"{usage()}\n\nexpected one of these commands, got {arguments[0]!r}")


main(sys.argv[1:])
