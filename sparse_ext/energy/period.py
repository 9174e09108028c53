"""How often a counter moves, found out by watching it.

zeus 0.16.0 takes the smallest of 0.0 and what it has found, which is always zero. Here each counter has a period of its own,
and one that was not seen to move twice has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from .clock import Clock
from .counter import Counter

# NVML's counters move every 20 to 100 ms, RAPL's every millisecond.
PAUSE_S = 0.2e-3
TIMEOUT_S = 2.0


def update_periods(counters: Sequence[Counter], clock: Clock) -> list[float | None]:
    """Seconds between the first two moves of each counter; None where they were not seen in time. Watches all at once."""
    last = [_read(counter) for counter in counters]
    moves: list[list[float]] = [[] for _ in counters]
    end = clock.now() + TIMEOUT_S
    while clock.now() < end and any(len(seen) < 2 for seen in moves):
        clock.sleep(PAUSE_S)
        for i, counter in enumerate(counters):
            value = _read(counter)
            if None not in (value, last[i]) and value != last[i]:
                moves[i].append(clock.now())
            last[i] = value
    return [seen[1] - seen[0] if len(seen) >= 2 else None for seen in moves]


def _read(counter: Counter) -> float | None:
    try:
        return counter.read()
    except Exception:  # a track says what is wrong with it
        return None
