"""Time and energy of pipeline stages as CSV, which zeus' pipeline-frequency optimiser (Perseus) reads.

The reader is `examples/pipeline_frequency_optimizer/run_optimization.py` of zeus 0.16.0. For each stage and instruction it fits
a curve of three coefficients through the frequencies, so that it needs more than three of them.
"""

from __future__ import annotations

import csv
import io

from ..record import Arm, Record
from ..run import Stage

HEADER = ("stage", "instruction", "frequency", "time", "energy")
INSTRUCTIONS = ("forward", "backward")


def table(record: Record) -> str | None:
    """The stages of the first sparse arm that has any; else of the first arm. None: none was measured.

    Raises:
        ValueError: a stage lacks its forward or backward pass, or the stages are not numbered 0, 1, ...
    """
    with_stages = [arm for arm in record.arms if arm.stages]
    return rows(min(with_stages, key=_dense_last)) if with_stages else None


def _dense_last(arm: Arm) -> bool:
    return arm.method is None


def rows(arm: Arm) -> str:
    """One arm's stages: MHz, seconds, joules.

    Raises:
        ValueError: see `table`.
    """
    _check(arm)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for one in sorted(arm.stages, key=_order):
        writer.writerow((one.stage, one.instruction, one.frequency_mhz, one.time_s, one.energy_j))
    return text.getvalue()


def _order(one: Stage) -> tuple[int, int, int]:
    return one.stage, INSTRUCTIONS.index(one.instruction), one.frequency_mhz


def _check(arm: Arm) -> None:
    """A planner fits each stage's forward and backward pass: one that lacks stops it in the middle."""
    found = {(one.stage, one.instruction) for one in arm.stages}
    if others := sorted({instruction for _, instruction in found} - set(INSTRUCTIONS)):
        raise ValueError(f"stages of {arm.name}: expected {' or '.join(INSTRUCTIONS)}, got {others[0]!r}")
    count = len({stage for stage, _ in found})
    expected = [(stage, instruction) for stage in range(count) for instruction in INSTRUCTIONS]
    if missing := [f"{instruction} of stage {stage}" for stage, instruction in expected if (stage, instruction) not in found]:
        raise ValueError(f"stages of {arm.name}: expected forward and backward of stages 0 to {count - 1}, got no {missing[0]}")
