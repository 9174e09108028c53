"""What the demo is there to show, as sentences that say whether this run did; and its arms side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean, stdev

from sparse_ext.report import figures, table
from sparse_ext.report.quality import diverged, worse_by
from sparse_ext.report.record import Arm, Record

Arms = Mapping[str, Arm]
Claims = Iterator[tuple[bool, str]]


def side_by_side(record: Record) -> str:
    """The arms as a table; means over the seeds."""
    head = [
        "arm", record.metric.name, "steps", "ms / step", "speed", "weights, grads, optimizer", "indices", "FLOPs", "train s",
    ]  # fmt: skip
    return table.terminal(head, [_row(arm, record.arms[0]) for arm in record.arms], right=range(1, len(head)))


def _row(arm: Arm, dense: Arm) -> list[str]:
    memory = arm.runs[0].memory
    held = memory.weights + memory.gradients + memory.optimizer_state
    scores = [run.score for run in arm.runs if run.score is not None]
    return [
        arm.name,
        f"{fmean(scores):.3f}" + (f" ± {stdev(scores):.2f}" if len(scores) > 1 else "") if scores else "not finite",
        f"{fmean(run.steps for run in arm.runs):.0f}",
        f"{1e3 * step_s(arm):.2f}",
        f"{step_s(dense) / step_s(arm):.2f}x",
        f"{held / 1e6:.2f} MB",
        f"{memory.indices / 1e6:.2f} MB" if memory.indices else "-",
        f"{fmean(run.flops for run in arm.runs) / fmean(run.flops for run in dense.runs):.4f}",
        f"{fmean(run.seconds.train_s for run in arm.runs):.1f}",
    ]


def step_s(arm: Arm) -> float:
    """Seconds of a training step, a mean over all."""
    return sum(run.seconds.train_s for run in arm.runs) / sum(run.steps for run in arm.runs)


def lead(record: Record, one: str, other: str) -> tuple[float, str]:
    """By how much one arm is better than another, paired by seed, and how sure that is; NaN: a score was not finite."""
    arms = {arm.name: arm for arm in record.arms}
    ahead = worse_by(arms[other], arms[one], record.metric)
    if ahead is None:
        return float("nan"), diverged(arms[one], arms[other])
    return ahead.mean, f"{figures.interval(ahead)} {record.metric.name}"


def nm24(record: Record) -> Claims:
    """Of the 2:4 arms."""
    bar, words = (1.0, "1 point") if record.metric.higher_is_better else (0.1, "0.1 bits")
    for arm in record.arms[1:]:
        ahead, text = lead(record, arm.name, "dense")
        yield ahead > -bar, f"{arm.name} is within {words} of dense: {text}"


def cnn(record: Record) -> Claims:
    """Of the convolutional network's arms."""
    *near, static, rigl = (arm.name for arm in record.arms[1:])
    for name in near:
        ahead, text = lead(record, name, "dense")
        yield ahead >= -0.5, f"{name}, is within half a point of dense: {text}"
    ahead, text = lead(record, rigl, static)
    yield ahead > 0, f"{rigl}, is ahead of the static pattern: {text}"


def gcn(record: Record) -> Claims:
    """Of the graph network's arms."""
    for arm in record.arms[1:]:
        ahead, text = lead(record, arm.name, "dense")
        yield ahead >= -1.5, f"{arm.name} is within 1.5 points of dense: {text}"


def csr(record: Record) -> Claims:
    """Of dense arms that spend as much, smaller dense ones, and sparse ones."""
    arms = {arm.name: arm for arm in record.arms}
    slowest = max(step_s(arms[name]) for name in ("static", "RigL"))
    dense_s = step_s(arms["dense"])
    yield slowest < dense_s, f"a sparse step takes less time than a dense one: {dense_s / slowest:.2f}x as fast"
    others = {
        "static": "the static pattern",
        "dense, equal FLOPs": "dense training with the same FLOPs",
        "dense, equal seconds": "dense training that takes as long",
        "narrower": "a narrower dense network that takes as long",
        "low rank": "a network of low rank that takes as long",
    }
    for name, what in others.items():
        ahead, text = lead(record, "RigL", name)
        yield ahead > 0, f"RigL is ahead of {what}: {text}"
