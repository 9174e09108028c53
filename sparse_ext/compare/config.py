"""`Config`: what is compared, and how, as a TOML file or a dictionary says it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sparse_ext.report.codec import build

from .arms import ARMS, Contender, Dense, Matched, Sparse
from .task import Task

REPEATS = 3  # fewer tell nothing of the spread


@dataclass(frozen=True)
class Config:
    """A comparison.

    Attributes:
        title: of the report.
        task: "module:function", a function that returns a `Task`. arguments: of the function.
        steps: of training, of the arms that do not match another one.
        tolerance: by how much the mean score of an arm may be worse and still be called equal, in units of the metric.
        arm: the arms' tables, in the order of their turns. The first is the reference, of kind "dense". Each has a `name`, a
            `kind` of ARMS, and that kind's attributes.
        repeats: runs of each arm, each with a seed of its own; at least REPEATS, unless it is a trial.
        seeds: one for each repeat; empty: 0, 1, 2, ...
        device: "cpu", "cuda" or "cuda:1".
        threads: of the CPU; 0: as torch has it.
        precision: a name in PRECISIONS, of the arms that have none of their own.
        idle_s: how long the idle machine is measured before and after; 0: not at all.
        warm_up_steps: steps of a rehearsal before each run.
        turns: into how many parts each training is divided. Fewer turns are longer, as slow energy counters need them.
        evaluations: of each run, at the ends of turns, the last one at the end.
        layers_s: how long the times of each arm's layers are measured, after the runs; 0: not at all.
        stages: as how many pipeline stages each arm's model is measured after the runs, for a planner of clock frequencies; 0:
            not at all.
        frequencies: MHz, to which the GPU's clock is locked in turn for the stages, which needs administrator rights; none: the
            clock is left alone.
        trial: it only shows that all works: nothing may be called saved.
    """

    title: str
    task: str
    steps: int
    tolerance: float
    arm: tuple[dict[str, Any], ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    repeats: int = REPEATS
    seeds: tuple[int, ...] = ()
    device: str = "cpu"
    threads: int = 0
    precision: str = "float32"
    idle_s: float = 30.0
    warm_up_steps: int = 5
    turns: int = 40
    evaluations: int = 10
    layers_s: float = 1.0
    stages: int = 0
    frequencies: tuple[int, ...] = ()
    trial: bool = False

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.repeats < REPEATS and not self.trial:
            raise ValueError(
                f"repeats: expected at least {REPEATS}, as fewer tell nothing of the spread, got {self.repeats}; trial = true "
                "allows it, and nothing is called saved then"
            )
        if self.trial and self.repeats >= REPEATS:
            raise ValueError(
                f"trial: expected fewer than {REPEATS} repeats, as nothing may be called saved, got {self.repeats}; "
                "with as many, leave trial out"
            )
        if not self.evaluations <= self.turns <= self.steps:
            raise ValueError(
                f"turns: expected a number between evaluations and steps, {self.evaluations} and {self.steps}, got {self.turns}"
            )
        if self.seeds and not len(self.seeds) == len(set(self.seeds)) == self.repeats:
            raise ValueError(f"seeds: expected {self.repeats} different ones, one for each repeat, got {list(self.seeds)}")
        if self.frequencies and not self.stages:
            raise ValueError(f"stages: expected at least 1, to be measured at {list(self.frequencies)} MHz, got 0")
        _check_device(self.device)
        _check_names(self.arm)
        _as_json(asdict(self))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Of the repeats, in order."""
        return self.seeds or tuple(range(self.repeats))

    @property
    def values(self) -> dict[str, Any]:
        """As JSON has them."""
        return _as_json(asdict(self))


LEAST = {"steps": 1, "tolerance": 0, "repeats": 1, "threads": 0, "idle_s": 0, "warm_up_steps": 0, "turns": 1,
         "evaluations": 1, "layers_s": 0, "stages": 0}  # fmt: skip


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:1', got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:1', got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device: expected 'cpu' or a CUDA device, of which torch sees {count} here, got {name!r}")


def _check_names(tables: tuple[dict[str, Any], ...]) -> None:
    if len(tables) < 2:
        raise ValueError(f"arm: expected at least two tables [[arm]], got {len(tables)}")
    names = [table.get("name") for table in tables]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"arm: expected a different name for each, got {', '.join(map(repr, names))}")
    for table in tables:
        if table.get("kind") not in list(ARMS):  # what is no text has no hash
            raise ValueError(f"arm {table['name']!r}: kind: expected one of {', '.join(ARMS)}, got {table.get('kind')!r}")
    if ARMS[tables[0]["kind"]] is not Dense:
        raise ValueError(f"arm: expected the first to be the reference, of kind 'dense', got {tables[0]['kind']!r}")


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: expected texts, finite numbers, lists and tables, got something else: {error}") from error


def config_of(source: Config | Mapping[str, Any] | Path | str) -> Config:
    """The config in a TOML file, a dictionary, or as it is.

    Raises:
        ValueError: it does not fit; the sentence says where.
        OSError: there is no such file.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return build(Config, _as_json(source), "config")
    path = Path(source)
    return build(Config, _as_json(_toml(path)), path.name)


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path}: reading TOML needs Python 3.11 or tomli: pip install 'sparse_ext[compare]'", name="tomli"
            ) from error
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected TOML, got {error}") from error


def quick(config: Config) -> Config:
    """A trial of it: one repeat of a twentieth of the steps."""
    turns = 4
    steps = max(turns, config.steps // 20)
    return replace(config, steps=steps, turns=turns, evaluations=2, trial=True, repeats=1, seeds=(), idle_s=0.0, layers_s=0.1)


def contenders_of(config: Config, task: Task) -> dict[str, Contender]:
    """{name: contender}, checked.

    Raises:
        ValueError: an arm does not fit; the sentence names it.
    """
    found: dict[str, Contender] = {}
    for table in config.arm:
        own = {"precision": config.precision, **{key: value for key, value in table.items() if key != "kind"}}
        where = f"arm {table['name']!r}"
        found[table["name"]] = build(ARMS[table["kind"]], own, where)
    for name, contender in found.items():
        try:
            contender.check(task)
            rival_of(contender, found)
        except (ValueError, TypeError) as error:
            raise ValueError(f"arm {name!r}: {error}") from error
    return found


def rival_of(contender: Contender, contenders: Mapping[str, Contender]) -> Contender | None:
    """The arm that it matches; None: it matches none."""
    if not isinstance(contender, Matched):
        return None
    possible = {name: one for name, one in contenders.items() if not isinstance(one, Matched)}
    if contender.matches:
        if contender.matches not in possible:
            names = ", ".join(map(repr, possible))
            raise ValueError(f"matches: expected an arm that matches no other ({names}), got {contender.matches!r}")
        return possible[contender.matches]
    sparse = [one for one in possible.values() if isinstance(one, Sparse)]
    if len(sparse) != 1:
        names = ", ".join(repr(one.name) for one in sparse) or "none"
        raise ValueError(f"matches: expected the name of an arm, as there is not exactly one sparse arm ({names}), got none")
    return sparse[0]
