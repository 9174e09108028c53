"""The folder of a comparison while it is at work: what is finished, and where each arm of the present repeat is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_ext.report.codec import build, write_json
from sparse_ext.report.record import Idle
from sparse_ext.report.run import LayerTime, Run, Stage

from .arms import Size


@dataclass(frozen=True)
class Repeat:
    """What a finished repeat leaves.

    Attributes:
        runs: {arm: run}.
        layers, stages: {arm: times}; stages_why: {arm: why it has no stages}. {} unless it is the last repeat.
        notes: sentences for the reader.
    """

    runs: dict[str, Run]
    layers: dict[str, tuple[LayerTime, ...]]
    stages: dict[str, tuple[Stage, ...]]
    stages_why: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """What is found before the first repeat: the machine at rest, the arms' sizes, and the commit of the user's repository."""

    idle: Idle | None
    sizes: dict[str, Size]
    notes: tuple[str, ...]
    commit: str | None


@dataclass(frozen=True)
class End:
    """What is found after the last repeat.

    Attributes:
        created: when.
        commit: of the user's repository.
    """

    idle: Idle | None
    created: str
    commit: str | None


class Store:
    """Files of a comparison. Each is written whole, or not at all.

    Args:
        folder: made if there is none, once there is something to keep.
        began: {what: value} that must be the same whenever the comparison goes on.

    Raises:
        ValueError: the folder has a comparison that began otherwise.
    """

    def __init__(self, folder: Path, began: Mapping[str, Any]) -> None:
        self._folder, self._began = folder, json.loads(json.dumps(began))
        before = self._read("began.json")
        if before is not None and (changed := _differences(before, self._began)):
            raise ValueError(
                f"{folder}: expected the comparison that began here, got another one, which differs in {', '.join(changed)}; "
                "take another folder (--out), or begin anew with --fresh, which throws away what is done here"
            )

    @staticmethod
    def clear(folder: Path) -> None:
        """Throws away what a folder has."""
        shutil.rmtree(folder, ignore_errors=True)

    # ---- what is finished -----------------------------------------------------------------------------------------------

    def start(self) -> Start | None:
        """What was found before the first repeat."""
        return self._built(Start, "start.json")

    def keep_start(self, start: Start) -> None:
        """Writes it, and how the comparison began."""
        self._write("began.json", self._began)
        self._write("start.json", asdict(start))

    def end(self) -> End | None:
        """What was found after the last repeat."""
        return self._built(End, "end.json")

    def keep_end(self, end: End) -> None:
        """Writes it."""
        self._write("end.json", asdict(end))

    def repeat(self, seed: int) -> Repeat | None:
        """The finished one with this seed."""
        return self._built(Repeat, f"repeat-{seed}.json")

    def keep_repeat(self, seed: int, repeat: Repeat) -> None:
        """Writes it; states of its arms are no longer needed."""
        self._write(f"repeat-{seed}.json", asdict(repeat))
        for path in self._folder.glob("arm-*.pt"):
            path.unlink()

    # ---- the repeat at work ---------------------------------------------------------------------------------------------

    def state(self, number: int, seed: int) -> dict[str, Any] | None:
        """What arm `number` was after its last turn in the repeat with this seed; None: it has taken none."""
        path = self._folder / f"arm-{number}.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, weights_only=False, map_location="cpu")  # written here: it holds optimizers' own objects
        except Exception as error:
            raise ValueError(f"{path}: expected an arm's state, got a file that cannot be read ({error}); remove it") from error
        return state["state"] if state["seed"] == seed else None

    def keep_state(self, number: int, seed: int, state: dict[str, Any]) -> None:
        """Writes it."""
        path = self._folder / f"arm-{number}.pt"
        unfinished = path.with_name(f"{path.name}.unfinished")
        torch.save({"seed": seed, "state": state}, unfinished)
        unfinished.replace(path)

    # ---- files ----------------------------------------------------------------------------------------------------------

    def _built(self, kind: Any, name: str) -> Any:
        data = self._read(name)
        return None if data is None else build(kind, data, str(self._folder / name))

    def _read(self, name: str) -> Any:
        path = self._folder / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON, got {error}; remove it, or begin anew with --fresh") from error

    def _write(self, name: str, values: Any) -> None:
        write_json(values, self._folder / name)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, such as "config: steps (100, now 200)"."""
    found = []
    for what in sorted(before.keys() | now.keys()):
        one, other = before.get(what), now.get(what)
        if isinstance(one, dict) and isinstance(other, dict):
            found += [f"{what}: {line}" for line in _differences(one, other)]
        elif one != other:
            found.append(f"{what} ({one}, now {other})" if len(f"{one}{other}") < 80 else what)
    return found
