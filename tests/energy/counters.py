"""Counters that play what was recorded, and windows over them."""

from sparse_ext.energy import Counter, Replay

HOUR = 3600.0


def steady(clock, watts=100.0, **options):
    """So many watts for an hour."""
    return Replay([(0, 0), (HOUR, watts * HOUR)], clock=clock, **options)


class Broken(Counter):
    """Somebody's counter, with an error of its own."""

    name, source, scope, period_s = "broken", "somebody's", "GPU", 1.0

    def read(self):
        raise OSError("cable pulled")

    temperature_c = read

    def counters(self):
        return [self]


def measured(meter, clock, seconds, name="w"):
    with meter.window(name) as window:
        clock.advance(seconds)
    return window.reading
