"""Command line: `python -m bench run --suite layer --threads 1 2` and `python -m bench report FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .cases import SUITES
from .report import load, table
from .run import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="measure a suite and append its rows to a file")
    runner.add_argument("--suite", choices=SUITES, default="layer")
    runner.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64", "float16"])
    runner.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    runner.add_argument("--threads", type=int, nargs="+", default=[1])
    runner.add_argument("--budget", type=float, default=4.0, help="seconds per case")
    runner.add_argument("--out", type=Path, default=Path("out/bench.jsonl"))
    reporter = commands.add_parser("report", help="print the table of a result file")
    reporter.add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "report":
        print(table(load(arguments.file)))
        return
    dtype = getattr(torch, arguments.dtype)
    run(arguments.suite, dtype, arguments.device, arguments.threads, arguments.out, arguments.budget)
    print(table(load(arguments.out)))


if __name__ == "__main__":
    main()
