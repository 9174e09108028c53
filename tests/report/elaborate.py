"""A record as a real comparison leaves it: six arms, three seeds each, curves of ten points. Made by formulas, not measured."""

from math import exp
from statistics import fmean
from typing import NamedTuple

from records import MACHINE, NO_COUNTER, VERSIONS

from sparse_ext.report.record import Arm, Idle, Metric, Record, Sensor
from sparse_ext.report.run import DensityPoint, Energy, LayerTime, Memory, Point, Run, Seconds
from sparse_ext.report.verdict import judged

SEEDS, POINTS, SAMPLES = 3, 10, 32


class Row(NamedTuple):
    """An arm. `second`, `flops`: of a step. `density`: at the end; None: a dense arm. `timed`: its layers were."""

    name: str
    kind: str
    about: str
    steps: int
    second: float
    flops: float
    watts: float
    score: float
    density: float | None = None
    matches: str | None = None
    width: int = 256
    timed: bool = True


DENSE = Row("dense", "dense", "the dense network", 4000, 0.11, 3.2e10, 212.0, 2.028)
RIGL = Row("RigL, 90 % sparse", "sparse", "regrown where gradients are large", 4000, 0.031, 4.1e9, 183.0, 2.041, 0.1)
ROWS = (
    DENSE,
    RIGL,
    Row("gradual pruning", "sparse", "dense at first, then pruned by magnitude", 4000, 0.052, 9.9e9, 190.0, 2.034, 0.1),
    Row("dense, equal seconds", "equal seconds", "fewer steps", 1130, 0.11, 3.2e10, 212.0, 2.142, matches=RIGL.name),
    Row(
        "narrow dense, equal seconds", "equal seconds", "width 112 instead of 256", 6300, 0.0197, 6.3e9, 151.0, 2.067,
        matches=RIGL.name, width=112,
    ),
    Row("dense, bfloat16", "precision", "the dense network in bfloat16", 4000, 0.068, 3.2e10, 205.0, 2.0285),
)  # fmt: skip


def rich(*, joules=True, rows=ROWS, seeds=SEEDS, points=POINTS):
    machine_at_rest = (1860.0, 62.0, 38.0) if joules else (None, None)
    return judged(
        Record(
            "A character model: dense against sparse", "2026-11-30T12:00:00+00:00", "examples.tasks:characters",
            {"repeats": seeds, "arms": {row.name: {"kind": row.kind, "steps": row.steps} for row in rows}}, MACHINE, VERSIONS,
            Metric("bits per character", False, 0.02),
            Sensor("NVML energy counter", "GPU", 1e-3, 0.1, False) if joules else None, None if joules else NO_COUNTER,
            tuple(Idle(when, 30.0, *machine_at_rest) for when in ("before", "after")),
            tuple(arm(row, joules, seeds, points) for row in rows), (),
            ("The clocks were not locked.", "Another process used the machine for 2 % of the time."),
        )
    )  # fmt: skip


def many(count):
    """As many arms, whose curves end close together."""
    rows = [
        Row(
            f"method {i}, update interval {50 * i}", "sparse", "one of many", 3000, 0.02 + 0.003 * i, 3e9 + 4e8 * i, 150.0,
            2.03 + 0.002 * i, 0.1, timed=i < 3,
        )
        for i in range(1, count)
    ]  # fmt: skip
    return rich(rows=(DENSE, *rows))


def arm(row, joules, seeds, points):
    sparse = {} if row.density is None else {"method": "rigl", "choices": {"update_interval": 100}, "layout": "csr"}
    return Arm(
        row.name, row.kind, row.about, "bfloat16" if row.kind == "precision" else "float32",
        tuple(run(row, seed, joules, points) for seed in range(seeds)), **sparse,
        matches=row.matches, matched=row.matches and "seconds", layers=layers(row) if row.timed else (),
    )  # fmt: skip


def run(row, seed, joules, points):
    spread = (7 * seed + len(row.name)) % 3 - 1
    total, end = row.steps * row.second * (1 + 0.02 * spread), row.score + 0.004 * (seed - 1) + 0.002 * spread
    energy, samples = (total * row.watts if joules else None), row.steps * SAMPLES
    densities = tuple(DensityPoint(row.steps * i // 20, density(row, i / 20)) for i in range(20))
    average = fmean(point.density for point in densities)
    return Run(
        seed, row.steps, samples, end, Seconds(total * 0.97, total * 0.006 * (average < 1), total * 0.03, 4.2),
        Energy(
            energy, energy and energy * 0.6, energy and energy / samples, energy and row.watts, False,
            None if joules else NO_COUNTER,
        ),
        row.flops * row.steps, row.flops * row.steps * 0.98, memory(row), total / 86400, average, min(1.0, 2.4 * average),
        tuple(point(row, i / points, total, energy, end + wiggle(i, spread, points)) for i in range(1, points + 1)), densities,
        *((41.0, 63.0) if joules else ()),
    )  # fmt: skip


def point(row, share, total, energy, end):
    steps, score = int(row.steps * share), end + 0.9 * (exp(-4 * share) - exp(-4))
    return Point(steps, steps * SAMPLES, total * share, energy and energy * share, row.flops * steps, score)


def wiggle(i, spread, points):
    return 0.006 * ((5 * i + spread) % 4 - 1.5) * (i < points)


def density(row, share):
    if row.density is None:
        return 1.0
    return max(row.density, 1 - 0.9 * share / 0.7) if row.name == "gradual pruning" else row.density


def memory(row):
    kept = int(200 * row.width**2 * (row.density or 1.0))
    parts = (4 * kept, 0 if row.density is None else 3 * kept, 4 * kept, 8 * kept, 160_000 * row.width)
    return Memory(*parts, int(1.02 * sum(parts)))


def layers(row):
    width, sparse = row.width, row.density is not None
    shapes = {"embedding": (96, width), "head": (width, 96)}
    shapes |= {f"blocks.{i}.{part}": (width, 4 * width) for i in range(3) for part in ("up", "down")}
    return tuple(
        LayerTime(
            name, shape, "csr" if sparse and "." in name else None, row.density if sparse and "." in name else 1.0,
            2.1e-9 * shape[0] * shape[1] * (0.3 if sparse and "." in name else 1.0),
            3.9e-9 * shape[0] * shape[1] * (0.33 if sparse and "." in name else 1.0),
        )
        for name, shape in sorted(shapes.items())
    )  # fmt: skip
