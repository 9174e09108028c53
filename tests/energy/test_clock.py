"""The system's clock, and the one that tests turn by hand."""

import threading
from itertools import pairwise

from sparse_ext.energy import ManualClock
from sparse_ext.energy.clock import SystemClock


def test_the_systems_clock_calls_until_it_is_told_to_stop():
    clock, called = SystemClock(), threading.Semaphore(0)
    before = set(threading.enumerate())
    end = clock.every(1e-3, called.release)
    [thread] = set(threading.enumerate()) - before
    assert all(called.acquire(timeout=10) for _ in range(3))
    end()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_manual_clock_calls_in_the_order_of_time():
    clock, called = ManualClock(), []
    clock.every(3.0, lambda: called.append((3, clock.now())))
    end = clock.every(2.0, lambda: called.append((2, clock.now())))
    clock.advance(6.5)
    assert sorted(called) == [(2, 2.0), (2, 4.0), (2, 6.0), (3, 3.0), (3, 6.0)]
    assert all(earlier[1] <= later[1] for earlier, later in pairwise(called))
    end()
    clock.advance(2.5)
    assert called[5:] == [(3, 9.0)]
