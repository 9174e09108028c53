"""`compare`: trains the arms of a config in turns, and says what each has spent and reached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparse_ext.machine import machine, now, versions
from sparse_ext.report import codec
from sparse_ext.report.cli import write_pages
from sparse_ext.report.record import Idle, Metric, Record
from sparse_ext.report.run import LayerTime, Stage
from sparse_ext.report.verdict import judged

from .arms import Contender, Size
from .bench import Bench
from .config import Config, config_of, contenders_of, rival_of
from .contestant import Contestant
from .layers import layer_times, stages_of
from .meter import Meter, default_meter, sensor_of
from .progress import Watch
from .randomness import Randomness
from .rehearsal import Rehearsal, rehearse
from .result import arm_of, mismatches, run_of, with_idle
from .store import End, Repeat, Start, Store
from .task import fingerprint, load, source_of
from .training import Training

STATE, REPORT = "state", "report.json"


def compare(
    config: Config | Mapping[str, Any] | Path | str,
    *,
    folder: Path | str | None = None,
    fresh: bool = False,
    meter: Meter | None = None,
    watch: Watch | None = None,
) -> Record:
    """Trains dense and sparse arms in turns, on the same batches, and judges what each has saved.

    An interrupted comparison goes on where it was when it is called again with the same config and folder. A finished one is
    not trained again. Resumed results equal uninterrupted ones bit for bit, except for time and energy.

    Args:
        config: a TOML file, its content as a dictionary, or a `Config`.
        folder: of states and results; None: "out/compare/" and the name of the file, or the title.
        fresh: throws away what the folder has.
        meter: measures energy; None: the counters of the CPU, and of the GPU that trains.
        watch: is told how far it is; None: nothing is shown.

    Returns:
        The record, which is also in the folder as `report.json`, with its pages.

    Raises:
        ValueError, TypeError: the config or the task does not fit, or the folder has a comparison of another config.
        OSError: a file cannot be read or written.
    """
    chosen = config_of(config)
    path = Path(folder) if folder is not None else Path("out/compare") / _name_of(config, chosen)
    with _threads(chosen.threads), Randomness(0, torch.device(chosen.device)).unchanged():
        record = judged(Comparison(chosen, path, fresh, meter, watch or Watch()).record())
    codec.write(record, path / REPORT)
    write_pages(record, path)
    return record


def _name_of(config: Any, chosen: Config) -> str:
    if isinstance(config, str | Path):
        return Path(config).stem
    return "-".join("".join(letter if letter.isalnum() else " " for letter in chosen.title.lower()).split()) or "comparison"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many of the CPU; 0: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Comparison:
    """A comparison at work. See `compare` for the arguments."""

    def __init__(self, config: Config, folder: Path, fresh: bool, meter: Meter | None, watch: Watch) -> None:
        self.config, self.device = config, torch.device(config.device)
        self.task = load(config.task, config.arguments)
        self.contenders = contenders_of(config, self.task)
        self.rivals = {name: rival_of(one, self.contenders) for name, one in self.contenders.items()}
        self._watch = watch
        self.meter = default_meter(self.device) if meter is None else meter
        if fresh:
            Store.clear(folder / STATE)
        self.machine, self.versions = machine(self.device), versions()
        same = {name: value for name, value in self.versions.items() if name != "commit"}
        began = {"config": config.values, "machine": vars(self.machine), "versions": same}
        self._store = Store(folder / STATE, {**began, "the task's source": source_of(self.task)})

    def record(self) -> Record:
        """Does what is left to do. The record is not judged."""
        config, sensor = self.config, sensor_of(self.meter)
        start = self._store.start() or self._start()
        repeats = [
            self._store.repeat(seed) or self._repeat(number, seed, start) for number, seed in enumerate(config.all_seeds)
        ]
        end = self._store.end() or self._end()
        idle = [one for one in (start.idle, end.idle) if one is not None]
        arms = {
            name: arm_of(
                one,
                self.rivals[name],
                start.sizes[name],
                [with_idle(repeat.runs[name], idle) for repeat in repeats],
                repeats[-1],
            )
            for name, one in self.contenders.items()
        }
        notes = [*start.notes, *(note for repeat in repeats for note in repeat.notes), *mismatches(arms), *self._protocol()]
        if end.commit != start.commit:
            notes.append(f"It began at commit {start.commit}, and was interrupted and ended at commit {end.commit}.")
        return Record(
            title=config.title,
            created=end.created,
            entry=config.task,
            config=config.values,
            machine=self.machine,
            versions={**self.versions, "commit": start.commit},
            metric=Metric(self.task.metric, self.task.higher_is_better, config.tolerance),
            sensor=sensor,
            sensor_why=self.meter.why if sensor is None else None,
            idle=tuple(idle),
            arms=tuple(arms.values()),
            notes=tuple(dict.fromkeys(notes)),
        )

    def _protocol(self) -> Iterator[str]:
        """How it was measured."""
        config = self.config
        yield (
            f"The arms took turns, {config.turns} in each run. Seconds and joules are those of whole loops, with data, updates "
            f"of patterns and {config.evaluations} evaluations. Before each run, {config.warm_up_steps} steps of a training "
            "that was then thrown away warmed up the machine."
        )
        yield "FLOPs are counted on copies of the models, once for every state of their layers; clocks stand still meanwhile."
        if not config.idle_s:
            yield "The idle machine was not measured (idle_s = 0), so joules beyond those at rest are unknown."
        if config.trial:
            yield "A trial: it shows that all works; nothing is called saved."

    # ---- before and after the repeats -------------------------------------------------------------------------------------

    def _start(self) -> Start:
        idle, sizes, notes = self._idle("before"), {}, []
        for name, contender in self.contenders.items():
            bench = self._bench(self.rivals[name] or contender)
            if self.rivals[name] is not None:
                self._watch.says(f"{name}: looking for its size")
            sizes[name] = contender.size(bench)
            notes += [*bench.notes, *([f"{name}: {sizes[name].note}."] if sizes[name].note else [])]
        start = Start(idle, sizes, tuple(notes), self.versions["commit"])
        self._store.keep_start(start)
        return start

    def _bench(self, rival: Contender) -> Bench:
        return Bench(self.task, rival, self.config.steps, self.config.evaluations, self.device)

    def _end(self) -> End:
        end = End(self._idle("after"), now(), self.versions["commit"])
        self._store.keep_end(end)
        return end

    def _idle(self, when: str) -> Idle | None:
        if not self.config.idle_s:
            return None
        self._watch.says(f"measuring the machine at rest for {self.config.idle_s:g} s")
        self.meter.begin_window("idle")
        time.sleep(self.config.idle_s)
        reading = self.meter.end_window("idle")
        return Idle(when, reading.seconds, reading.joules, reading.mean_w, self.meter.temperature_c())

    # ---- repeats --------------------------------------------------------------------------------------------------------

    def _repeat(self, number: int, seed: int, start: Start) -> Repeat:
        """Trains all arms with one seed, in turns, from where they are."""
        contestants, rehearsals = {}, {}
        for place, (name, contender) in enumerate(self.contenders.items()):
            rehearsals[name] = self._rehearsal(contender, start.sizes[name], seed)
            contestants[name] = Contestant(self._training(contender, start.sizes[name], seed), self.meter)
            if (state := self._store.state(place, seed)) is not None:
                contestants[name].load_state_dict(state)
        self._watch.begins(number + 1, self.config.repeats, contestants)
        self._take_turns(contestants, seed)
        repeat = self._finished(contestants, rehearsals, is_last=number == self.config.repeats - 1)
        self._store.keep_repeat(seed, repeat)
        return repeat

    def _take_turns(self, contestants: Mapping[str, Contestant], seed: int) -> None:
        """A B A B: all take the first turn, then all the second one."""
        for turn in range(1, self.config.turns + 1):
            seen: dict[int, str] = {}
            for place, (name, contestant) in enumerate(contestants.items()):
                if contestant.turn < turn and not contestant.is_over:
                    contestant.take_turn(turn, self.config.turns, self.config.evaluations)
                    self._check_batch(name, contestant.training, seen)
                    self._store.keep_state(place, seed, contestant.state_dict())
                    self._watch.turn(name, contestant)

    def _check_batch(self, name: str, training: Training, seen: dict[int, str]) -> None:
        """Arms that are as far as each other have seen the same batch. seen: {step: its fingerprint} of this turn."""
        own = fingerprint(training.batch)
        if own != seen.setdefault(training.step, own):
            raise ValueError(
                f"task: expected the same batches of {self.config.task} for all arms, got another one for {name!r} at step "
                f"{training.step}: batches(seed) takes global random numbers, or a batch is changed in place"
            )

    def _training(self, contender: Contender, size: Size, seed: int) -> Training:
        return Training(self.task, contender, size, seed, self.device)

    def _rehearsal(self, contender: Contender, size: Size, seed: int) -> Rehearsal:
        return rehearse(self._training(contender, size, seed), self.config.warm_up_steps)

    def _finished(self, contestants: Mapping[str, Contestant], rehearsals: Mapping[str, Rehearsal], is_last: bool) -> Repeat:
        runs = {name: run_of(one, rehearsals[name]) for name, one in contestants.items()}
        trainings = {name: one.training for name, one in contestants.items()}
        notes = [f"{name}: {sentence}" for name, one in trainings.items() for sentence in one.warnings]
        notes += [f"{name}, seed {one.seed}: training ended, as {one.broken}." for name, one in trainings.items() if one.broken]
        for name, one in contestants.items():
            if (tally := one.energy).warning is not None:
                notes.append(f"{name}: energy, in {tally.warned} of {tally.windows} windows: {tally.warning}")
        return Repeat(runs, *(self._afterwards(trainings) if is_last else ({}, {}, {})), tuple(notes))

    def _afterwards(
        self, trainings: Mapping[str, Training]
    ) -> tuple[dict[str, tuple[LayerTime, ...]], dict[str, tuple[Stage, ...]], dict[str, str]]:
        """Times of layers, stages, and why there are none, of each arm's trained model."""
        budget_s, count, frequencies = self.config.layers_s, self.config.stages, self.config.frequencies
        layers = {name: layer_times(one, budget_s) for name, one in trainings.items()} if budget_s else {}
        if not count:
            return layers, {}, dict.fromkeys(trainings, "no pipeline stages were asked for (stages = 0)")
        found = {name: stages_of(one, count, frequencies, self.meter) for name, one in trainings.items()}
        stages = {name: measured for name, (measured, _) in found.items()}
        return layers, stages, {name: why for name, (_, why) in found.items() if why is not None}
