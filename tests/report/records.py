"""Records made by hand, for tests of what is made of them."""

from dataclasses import replace

from sparse_ext.report.record import Arm, Idle, Interval, Machine, Metric, Record, Sensor, Verdict
from sparse_ext.report.run import DensityPoint, Energy, LayerTime, Memory, Point, Run, Seconds

MACHINE = Machine("cpu", 1, "A CPU", "v4", 8, 1, 16 << 30, "Linux 6.1")
VERSIONS = {"python": "3.11.2", "torch": "2.13.0", "sparse_ext": "0.1.0", "cuda": None, "commit": None}
NO_COUNTER = "no energy counter can be read on this machine"


def run(seed, score, seconds, *, steps=100, joules=None, flops=1e12, density=1.0):
    """With a curve of two points, and constant density."""
    samples = 32 * steps
    why = NO_COUNTER if joules is None else None
    per_sample, watts = (None, None) if joules is None else (joules / samples, joules / seconds)
    return Run(
        seed, steps, samples, score,
        Seconds(seconds * 0.95, seconds * 0.01 * (density < 1), seconds * 0.05, 0.5),
        Energy(joules, joules and joules * 0.7, per_sample, watts, False, why),
        flops, flops, Memory(1000, int(density < 1) * 500, 1000, 2000, 4000, 8500), seconds / 86400, density,
        min(1.0, 2 * density),
        tuple(
            Point(int(steps * x), int(samples * x), seconds * x, joules and joules * x, flops * x, score * (1.2 - 0.2 * x))
            for x in (0.5, 1.0)
        ),
        (DensityPoint(0, density),),
    )  # fmt: skip


def record(*, joules=False):
    """Dense and sparse, three seeds each; with or without joules."""
    dense = tuple(run(seed, 2.0 + 0.01 * seed, 10.0 + 0.1 * seed, joules=500.0 if joules else None) for seed in range(3))
    sparse = tuple(
        run(seed, 2.01 + 0.01 * seed, 4.0 + 0.1 * seed, joules=180.0 if joules else None, flops=2e11, density=0.1)
        for seed in range(3)
    )
    layers = (LayerTime("up", (512, 128), "csr", 0.1, 1e-3, 2e-3), LayerTime("head", (96, 128), None, 1.0, 5e-4, 1e-3))
    ratio = Interval(0.4, 0.38, 0.42, 3)
    saved = Verdict("saved at equal quality", ratio, "0.40 of dense's seconds, at equal quality")
    arms = (
        Arm("dense", "dense", "the dense network", "float32", dense, score=Interval(2.01, 1.99, 2.03, 3)),
        Arm(
            "RigL", "sparse", "90 % sparse, RigL", "float32", sparse, "rigl", {"update_interval": 100}, "auto", 0.9,
            layers=layers, stages_why=NO_COUNTER, score=Interval(2.02, 2.0, 2.04, 3), loss=Interval(0.01, 0.0, 0.02, 3),
            verdicts={"seconds": saved, "flops": saved, "joules": saved if joules else Verdict("unknown", None, NO_COUNTER)},
        ),
    )  # fmt: skip
    sensor = Sensor("NVML energy counter", "GPU", 1e-3, 0.1, False) if joules else None
    return Record(
        "A comparison", "2026-11-30T12:00:00+00:00", "tasks:chars", {"repeats": 3}, MACHINE, VERSIONS,
        Metric("bits per character", False, 0.02), sensor, None if joules else NO_COUNTER,
        (Idle("before", 30.0, *((900.0, 30.0) if joules else (None, None))),), arms, ("RigL saved 60 % of the seconds.",),
    )  # fmt: skip


def arm(name, scores, seconds, *, method=None, matches=None, joules=None, flops=1e12, **more):
    """One of so many runs as there are scores; None: not finite. more: other fields."""
    joules = joules or [None] * len(scores)
    density = 1.0 if method is None else 0.1
    runs = [
        replace(run(seed, score or 0.0, time, joules=used, flops=flops, density=density), score=score)
        for seed, (score, time, used) in enumerate(zip(scores, seconds, joules, strict=True))
    ]
    kind = "dense" if method is None else "sparse"
    matched = None if matches is None else "seconds"
    return Arm(
        name, kind, f"{name}, for tests", "float32", tuple(runs), method=method, matches=matches, matched=matched, **more
    )


def with_arms(one, *arms):
    return replace(one, arms=arms)


def with_energy(one, place, **changes):
    """With other energy in the first run of the arm in this place."""
    arms = list(one.arms)
    first, *others = arms[place].runs
    changed = replace(first, energy=replace(first.energy, **changes))
    arms[place] = replace(arms[place], runs=(changed, *others))
    return with_arms(one, *arms)
