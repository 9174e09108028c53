"""Timing that survives a shared machine: contenders take turns, A B A B, and medians of many turns are compared."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median, 20th and 80th percentile of the rounds."""

    median_s: float
    p20_s: float
    p80_s: float
    rounds: int

    @property
    def row(self) -> dict[str, Any]:
        """As columns of a result."""
        return asdict(self)


def keep_memory() -> None:
    """From now on this process keeps the memory that it frees, where the C library is glibc.

    Otherwise large tensors come as fresh pages, which cost a tenth to a third of a convolution's time, and whether they do
    depends on who ran before.
    """
    trim_threshold, mmap_threshold, most = -1, -3, 1 << 30  # of mallopt
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, most)
        libc.mallopt(trim_threshold, 2 * most - 1)


def _timed(function: Callable[[], object], calls: int, device: str) -> float:
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: str = "cpu",
    budget_s: float = 4.0,
    turn_s: float = 0.01,
    least: int = 7,
) -> dict[str, Timing]:
    """Seconds per call of each function. All take turns until the budget is spent, at least `least` rounds.

    A turn repeats a short function for about `turn_s`, so that the clock's resolution and loop overhead do not count; 0: a turn
    is one call.
    """
    calls = dict.fromkeys(functions, 1)
    for name, function in functions.items():
        function()
        if turn_s:
            function()
            once = _timed(function, 1, device)
            calls[name] = max(1, min(1000, int(turn_s / max(once, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    while time.perf_counter() - begin < budget_s or len(next(iter(samples.values()))) < least:
        for name, function in functions.items():
            samples[name].append(_timed(function, calls[name], device))
    return {name: _summary(times) for name, times in samples.items()}


def _summary(times: list[float]) -> Timing:
    p20, median, p80 = np.quantile(times, [0.2, 0.5, 0.8])
    return Timing(float(median), float(p20), float(p80), len(times))
