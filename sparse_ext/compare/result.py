"""From what the contestants did to a `Record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from sparse_ext.report.record import Arm, Idle
from sparse_ext.report.run import Energy, Run, Seconds

from .arms import Contender, Matched, Size, Sparse
from .contestant import Contestant
from .rehearsal import Rehearsal
from .store import Repeat

DAY_S = 86400
MISMATCH = 0.05  # of what arms share: beyond it a note says so


def run_of(contestant: Contestant, rehearsal: Rehearsal) -> Run:
    """A finished run; what it used beyond the idle machine is not known yet."""
    training, last = contestant.training, contestant.curve[-1:]
    report = None if training.sparsifier is None else training.sparsifier.report()
    before_c, after_c = contestant.temperatures
    return Run(
        seed=training.seed,
        steps=training.step,
        samples=training.samples,
        score=last[0].score if last and training.broken is None else None,
        seconds=Seconds(training.train_s, training.updates_s, training.evaluation_s, rehearsal.warm_up_s),
        energy=_gross(contestant),
        flops=training.work.flops,
        planned_flops=rehearsal.planned_flops * training.samples,
        memory=rehearsal.memory,
        hardware_days=contestant.total_s / DAY_S,
        average_density=training.work.density_sum / max(1, training.step),
        coverage=1.0 if report is None else training.work.coverage(report),
        curve=tuple(contestant.curve),
        density=tuple(training.work.density),
        temperature_before_c=before_c,
        temperature_after_c=after_c,
        stopped_early=contestant.stopped_early,
    )


def _gross(contestant: Contestant) -> Energy:
    tally, samples = contestant.energy, contestant.training.samples
    if tally.joules is None:
        return Energy(None, None, None, None, tally.estimated, tally.why)
    return Energy(tally.joules, None, tally.joules / max(1, samples), tally.joules / contestant.total_s, tally.estimated, None)


def with_idle(run: Run, idle: Sequence[Idle]) -> Run:
    """The run, with its joules beyond those of the idle machine, whose power is the mean of before and after."""
    energy, watts = run.energy, [one.mean_w for one in idle if one.mean_w is not None]
    if energy.gross_j is None:
        return run
    if not watts:
        return replace(run, energy=replace(energy, why="the idle machine was not measured, so its share is unknown"))
    return replace(run, energy=replace(energy, net_j=energy.gross_j - fmean(watts) * run.seconds.total_s))


def arm_of(contender: Contender, rival: Contender | None, size: Size, runs: Sequence[Run], last: Repeat) -> Arm:
    """An arm with its runs; last: the repeat that has the times of layers and stages."""
    sparse = contender if isinstance(contender, Sparse) else None
    return Arm(
        name=contender.name,
        kind=contender.KIND,
        about=contender.about(size),
        precision=contender.precision,
        runs=tuple(runs),
        method=None if sparse is None else sparse.method,
        choices={} if sparse is None else sparse.all_choices,
        layout=None if sparse is None else sparse.layout,
        sparsity=None if sparse is None else sparse.sparsity,
        matches=None if rival is None else rival.name,
        matched=contender.MATCHED if isinstance(contender, Matched) else None,
        layers=last.layers.get(contender.name, ()),
        stages=last.stages.get(contender.name, ()),
        stages_why=last.stages_why.get(contender.name),
    )


def mismatches(arms: Mapping[str, Arm]) -> list[str]:
    """A sentence for each arm that spent more, or less, than MISMATCH of what it was to share with another one."""
    spent = {"seconds": lambda run: run.seconds.total_s, "flops": lambda run: run.flops}
    notes = []
    for arm in arms.values():
        if arm.matches is None or arm.matched is None:
            continue
        own, other = (fmean(map(spent[arm.matched], one.runs)) for one in (arm, arms[arm.matches]))
        if abs(own / other - 1) > MISMATCH:
            notes.append(
                f"{arm.name} was to spend as many {arm.matched} as {arm.matches}, and spent {own / other:.2f} times as many."
            )
    return notes
