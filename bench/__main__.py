"""Command line: `python -m bench run | report | compare | bounds`; each explains itself with --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from . import bounds
from .cases import PATTERNS, SPARSITIES, SUITES, Case
from .compare import compare
from .contenders import CONTENDERS, PRODUCTS
from .report import load, plot_roofline, plot_speedups, table
from .run import run

DTYPES = ("float32", "bfloat16", "float64", "float16")


def _share(text: str) -> float:
    """ "5%" or "0.05"."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    runner = commands.add_parser("run", help="measure a suite and append its rows to a file")
    runner.add_argument("--suite", choices=SUITES, default="layer")
    runner.add_argument("--products", nargs="+", choices=PRODUCTS, default=["step"])
    runner.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="dense is always there")
    runner.add_argument("--sparsity", nargs="+", type=float, default=list(SPARSITIES))
    runner.add_argument("--patterns", nargs="+", choices=PATTERNS, default=["uniform"])
    runner.add_argument("--threads", type=int, nargs="+", default=[1])
    runner.add_argument("--out", type=Path, default=Path("out/bench.jsonl"))

    runner.add_argument("--dtype", default="float32", choices=DTYPES)
    runner.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    runner.add_argument("--budget", type=float, default=2.0, help="seconds per case and product")

    reporter = commands.add_parser("report", help="print the tables of a result file and plot them")
    reporter.add_argument("file", type=Path)
    reporter.add_argument("--plots", type=Path, help="folder for PNG plots (needs matplotlib)")

    comparer = commands.add_parser("compare", help="the same cases in two files; fails if one became slower")
    comparer.add_argument("old", type=Path)
    comparer.add_argument("new", type=Path)
    comparer.add_argument("--fail-above", type=_share, default=0.05, help="such as 5%%")
    commands.add_parser("bounds", help="print what an H200 allows for 4096 x 4096 and 8192 tokens")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    dtype = getattr(torch, arguments.dtype)
    cases = [
        Case(shape, sparsity, pattern, dtype, arguments.device)
        for shape in SUITES[arguments.suite]
        for pattern in arguments.patterns
        for sparsity in arguments.sparsity
    ]
    contenders = ["dense", *(name for name in arguments.contenders if name != "dense")]
    run(cases, arguments.products, contenders, arguments.threads, arguments.out, arguments.budget)


def _report(arguments: argparse.Namespace) -> None:
    rows = load(arguments.file)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
    for product in PRODUCTS:
        if any(row["case"] == product for row in rows):
            print(f"\n{product}: times as fast as dense\n\n{table(rows, product)}")
            if arguments.plots:
                print(f"\n{plot_speedups(rows, product, arguments.plots)}")
    if arguments.plots and (path := plot_roofline(rows, arguments.plots)):
        print(path)


def _compare(arguments: argparse.Namespace) -> None:
    lines, failures = compare(load(arguments.old), load(arguments.new), arguments.fail_above)
    print("\n".join(lines) or "no case is in both files")
    if failures or not lines:
        sys.exit(f"{len(failures)} of {len(lines)} cases lost more than {arguments.fail_above:.0%} of their speed-up")


def _bounds(arguments: argparse.Namespace) -> None:
    print(bounds.table())


def main() -> None:
    arguments = _parser().parse_args()
    commands = {"run": _run, "report": _report, "compare": _compare, "bounds": _bounds}
    commands[arguments.command](arguments)


if __name__ == "__main__":
    main()
