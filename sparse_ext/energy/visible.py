"""Which GPUs CUDA_VISIBLE_DEVICES leaves visible."""

from __future__ import annotations

from collections.abc import Callable

from .counter import Unreadable


def visible_devices(setting: str | None, count: int, uuid_of: Callable[[int], str]) -> list[int]:
    """Indices of the visible ones of `count` GPUs, in the order in which CUDA numbers them.

    As CUDA reads it: a list of indices or of UUIDs, which may be abbreviated; the list ends before the first entry that
    names no GPU.

    Args:
        setting: the variable's value; None: it is not set, and all are visible.
        uuid_of: (index) -> "GPU-...".

    Raises:
        Unreadable: no GPU is visible, or an instance of one, which has no counter of its own.
    """
    if setting is None:
        chosen = list(range(count))
    else:
        chosen = []
        for entry in map(str.strip, setting.split(",")):
            if entry.startswith("MIG-"):
                raise Unreadable(f"CUDA_VISIBLE_DEVICES names a MIG instance, {entry}: only whole GPUs have counters")
            index = _index_of(entry, count, uuid_of)
            if index is None:
                break
            chosen.append(index)
    if not chosen:
        raise Unreadable(
            "NVML sees no GPU" if count == 0 else f"CUDA_VISIBLE_DEVICES={setting!r} makes none of {count} GPUs visible"
        )
    return list(dict.fromkeys(chosen))


def _index_of(entry: str, count: int, uuid_of: Callable[[int], str]) -> int | None:
    if entry.startswith("GPU-"):
        named = [index for index in range(count) if uuid_of(index).startswith(entry)]
        return named[0] if len(named) == 1 else None
    return int(entry) if entry.isdecimal() and int(entry) < count else None
