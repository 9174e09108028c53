"""`python -m examples.demo`: dense and sparse training side by side, on real data that is already on this machine.

Dense; dense with as many training FLOPs as RigL, and with as many seconds; a narrower network, and one of low rank, that
take as long; sparse with a static pattern; sparse with RigL. For the convolutional network: dense; static, SET and RigL;
static and RigL with fewer weights still. For the graph network: dense; static, SET and RigL.
With --layout 2:4: dense; FST, S-STE and SR-STE, which keep a dense weight; RigL, which keeps a packed one.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from sparse_ext.compare import compare
from sparse_ext.compare.progress import shown

from . import claims
from .arms import config_of, csr_arms, nm24_arms
from .chars import Chars
from .digits import Digits
from .digits_cnn import DigitsCNN, cnn_arms
from .digits_gcn import DigitsGCN, gcn_arms
from .example import Example

TASKS: dict[str, Example] = {task.name: task for task in (Digits(), DigitsCNN(), DigitsGCN(), Chars())}
LAYOUTS = {"csr": (csr_arms, claims.csr), "2:4": (nm24_arms, claims.nm24)}
# Where a task has arms of its own: of which layout, and in whose place.
OWN = {
    (DigitsCNN.name, "csr"): (cnn_arms, claims.cnn),
    (DigitsGCN.name, "csr"): (gcn_arms, claims.gcn),
}
# Settings other than a task's own, whose run takes about ten minutes on two cores.
SIZES = {
    "full": {"digits": {}, "digits-cnn": {}, "digits-gcn": {}, "chars": {}},
    # About two minutes: the same comparison, with fewer seeds and a tenth of the steps.
    "default": {
        "digits": {"seeds": 3},
        "digits-cnn": {"seeds": 2},
        "digits-gcn": {"seeds": 2},
        "chars": {"steps": 200, "update_interval": 20, "gradient_steps": 8},
    },
    # Under a minute: shows that all works; too short to judge by.
    "quick": {
        "digits": {"seeds": 2},
        "digits-cnn": {"seeds": 1, "steps": 80},
        "digits-gcn": {"seeds": 1, "steps": 80},
        "chars": {"steps": 80, "update_interval": 20, "gradient_steps": 8},
    },
}
# How long the machine at rest is measured, before and after.
IDLE_S = {"full": 30.0, "default": 5.0, "quick": 0.0}


def run(task: Example, size: str, layout: str, out: Path) -> None:
    """One task, from training to the pages of its report."""
    begin = time.perf_counter()
    arms_of, claims_of = OWN.get((task.name, layout), LAYOUTS[layout])
    folder = out / f"{task.name}{'-nm24' if layout == '2:4' else ''}"
    with shown() as watch:
        watch.says(f"{task.name}, {layout}")
        config = config_of(task, arms_of(task), idle_s=IDLE_S[size])
        record = compare(config, folder=folder, fresh=True, watch=watch)
    print(claims.side_by_side(record))
    for holds, sentence in claims_of(record):
        print(f"yes  {sentence}" if holds else f"NO   not this time: {sentence}")
    print(*record.headline, sep="\n")
    print(f"the report is in {folder}; {time.perf_counter() - begin:.0f} s\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--layout", choices=LAYOUTS, default="csr", help="csr: any pattern; 2:4: two of every four weights")
    parser.add_argument("--full", action="store_const", dest="size", const="full", default="default", help="the long runs")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", help="a minute: to see that all works")
    parser.add_argument("--seeds", type=int, help="how many runs of every arm, in place of the task's own number")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the reports (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in TASKS if options.task == "all" else [options.task]:
        choices = SIZES[options.size][name] | ({} if options.seeds is None else {"seeds": options.seeds})
        run(replace(TASKS[name], **choices), options.size, options.layout, options.out)


if __name__ == "__main__":
    main()
