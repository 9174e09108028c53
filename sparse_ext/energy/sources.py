"""`METERS`: where counters are looked for. A new source is a file beside this one, and a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .counter import Counter, Source, Unreadable
from .nvml import Nvml
from .rapl import Rapl
from .scopes import counted_once

METERS: dict[str, Callable[[], Source]] = {"nvml": Nvml, "rapl": Rapl}


def find_counters(sources: Sequence[str | Source] | None) -> tuple[list[Counter], list[str]]:
    """The counters of these sources, nothing counted twice, and a sentence for each source or counter that is left out.

    Args:
        sources: names of METERS or objects with `counters()`; None: all of METERS.

    Raises:
        ValueError: a name that METERS does not have.
        TypeError: neither a name nor a source, or not a sequence of them.
    """
    if isinstance(sources, str):
        raise TypeError(f"EnergyMeter: expected a sequence of sources, such as [{sources!r}], got {sources!r}")
    found: list[Counter] = []
    missing: list[str] = []
    for source in map(_source, METERS if sources is None else sources):
        try:
            found += source.counters()
        except Unreadable as error:
            missing.append(str(error))
    kept, left_out = counted_once(found)
    return kept, missing + left_out


def _source(source: str | Source) -> Source:
    if isinstance(source, str):
        if source not in METERS:
            raise ValueError(f"EnergyMeter: expected sources of {', '.join(map(repr, METERS))}, got {source!r}")
        return METERS[source]()
    if not callable(getattr(source, "counters", None)):
        raise TypeError(f"EnergyMeter: expected sources with counters(), got {type(source).__name__}")
    return source
