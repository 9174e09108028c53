"""The counter that plays what was recorded."""

import pytest

from sparse_ext.energy import ManualClock, Replay, Unreadable


def shown(samples, seconds, **options):
    """What it shows at these seconds after it was made."""
    clock = ManualClock(now=50.0)
    replay = Replay(samples, clock=clock, **options)
    values = []
    for at_s in seconds:
        clock.advance(50.0 + at_s - clock.now())
        values.append(replay.read())
    return values


@pytest.mark.parametrize(
    ("samples", "options", "seconds", "values"),
    [
        ([(0, 0), (10, 100)], {}, (0, 2.5, 10), [0, 25, 100]),
        ([(0, 0), (10, 100), (20, 100)], {}, (15, 20), [100, 100]),
        ([(5, 70), (10, 100)], {}, (0, 5), [70, 70]),
        ([(0, 0), (10, 100), (10, 0), (20, 50)], {}, (9, 10, 15), [90, 0, 25]),  # reset
        ([(0, 80), (10, 20), (20, 30)], {}, (5, 10, 15), [80, 20, 25]),  # some time before 10 s
        ([(0, 0), (10, 100)], {"period_s": 1.0}, (0.9, 1.0, 1.9, 2.0), [0, 10, 10, 20]),
        ([(0, 0), (10, 100)], {"resolution_j": 4.0}, (0.3, 0.4, 0.79), [0, 4, 4]),
        ([(0, 3)], {}, (0,), [3]),
    ],
)
def test_what_it_shows(samples, options, seconds, values):
    assert shown(samples, seconds, **options) == [pytest.approx(value) for value in values]


def test_after_its_end_it_has_vanished():
    with pytest.raises(Unreadable, match="the recording ends after 10 s"):
        shown([(0, 0), (10, 100)], [10.1])


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [([], "expected samples, got none"), ([(0, 0), (2, 1), (1, 2)], "in the order of time, got 1 s after 2 s")],
)
def test_what_is_no_recording(samples, sentence):
    with pytest.raises(ValueError, match=sentence):
        Replay(samples)
