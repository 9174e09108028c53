"""CPUs and their memory, by RAPL: the counters of Intel and AMD that Linux shows as files (powercap)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .counter import Counter, Unreadable

ROOT = Path("/sys/class/powercap")

# What a domain's name begins with: its scope. Others, as "core" and "uncore", are parts of their package.
SCOPES = {"psys": "platform", "package": "package", "dram": "DRAM"}


class Rapl:
    """All packages, their DRAM, and the platform where the machine counts that; all of them, or none.

    Args:
        root: the folder of the zones.
    """

    def __init__(self, root: str | os.PathLike[str] = ROOT) -> None:
        self.root = Path(root)

    def counters(self) -> list[Counter]:
        """Of each domain one, nested ones too: what is in another one is left out by the meter."""
        folders = {folder.name: folder for folder in _zones(self.root)}
        found: dict[str, Zone] = {}
        # The memory-mapped interface shows packages a second time, under the same names; it comes last.
        for name in sorted(folders, key=lambda name: ("mmio" in name, name)):
            parent = folders.get(name.rpartition(":")[0])
            zone = Zone(folders[name], parent)
            if zone.scope in SCOPES.values():
                found.setdefault(zone.name, zone)
        if not found:
            raise Unreadable(
                f"RAPL: {self.root} has no intel-rapl zone; Linux has them for CPUs of Intel and AMD, and most containers and "
                "virtual machines hide them"
            )
        for zone in found.values():
            zone.read()
        return list(found.values())


class Zone(Counter):
    """One domain: microjoules, in a register that wraps.

    Args:
        folder: with `name`, `energy_uj` and `max_energy_range_uj`.
        parent: of the domain that this one is a part of.
    """

    source = "RAPL"
    resolution_j = 1e-6  # of the file; the register's own step is some 15 or 61 times as large

    def __init__(self, folder: Path, parent: Path | None = None) -> None:
        self._folder = folder
        domain = _text(folder / "name")
        # DRAM has the same name in every package.
        self.name = f"{_text(parent / 'name')} {domain}" if parent else domain
        self.scope = SCOPES.get(domain.partition("-")[0], domain)
        self.wraps_at_j = _joules(folder / "max_energy_range_uj")

    def read(self) -> float:
        return _joules(self._folder / "energy_uj")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError:
        raise Unreadable(
            f"RAPL: only root may read {path}; `sudo chmod a+r {ROOT}/*/energy_uj` lets all, until the machine is restarted"
        ) from None
    except OSError as error:
        raise Unreadable(f"RAPL: {path} cannot be read: {error.strerror}") from None


def _joules(path: Path) -> float:
    text = _text(path)
    try:
        return int(text) / 1e6
    except ValueError:
        raise Unreadable(f"RAPL: expected a number of microjoules in {path}, got {text!r}") from None


def _zones(folder: Path) -> Iterator[Path]:
    """The folders of all domains, nested ones too; the same one may come by several ways."""
    for inner in folder.glob("intel-rapl*"):
        if (inner / "energy_uj").exists():
            yield inner
        yield from _zones(inner)
