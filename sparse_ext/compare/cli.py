"""`python -m sparse_ext compare`: dense and sparse arms, trained in turns, and what each has saved."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .comparison import compare
from .config import config_of, quick
from .progress import shown


def command(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m sparse_ext compare", description=__doc__)
    parser.add_argument("config", type=Path, help="TOML; examples/compare has some")
    parser.add_argument("--out", type=Path, help="folder of states and results; default: out/compare/ and the config's name")
    parser.add_argument("--quick", action="store_true", help="a trial of one short repeat: shows that all works")
    parser.add_argument("--fresh", action="store_true", help="throws away what an earlier call has done")
    options = parser.parse_args(arguments)
    name = f"{options.config.stem}-quick" if options.quick else options.config.stem
    folder = options.out or Path("out/compare") / name
    try:
        config = config_of(options.config)
        with shown() as watch:
            record = compare(quick(config) if options.quick else config, folder=folder, fresh=options.fresh, watch=watch)
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command goes on from the last turn: {folder}")
    except (OSError, ValueError, TypeError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    print(*record.headline, "", f"the report is in {folder}", sep="\n")
