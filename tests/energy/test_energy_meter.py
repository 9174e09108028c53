"""Windows, over counters that play what was recorded: what a reading says, and when it says that it does not know."""

import pytest
from counters import Broken, measured, steady

from sparse_ext.energy import EnergyMeter, Replay


def test_a_window(clock):
    meter = EnergyMeter(sources=[steady(clock, source="meter", temperature_c=61.0)], clock=clock)
    meter.begin_window("train")
    clock.advance(20.0)
    reading = meter.end_window("train")
    assert (reading.name, reading.seconds, reading.source, reading.scope) == ("train", 20.0, "meter", "GPU")
    assert reading.joules == pytest.approx(2000)
    assert reading.mean_w == pytest.approx(100)
    assert reading.why is reading.warning is None
    assert str(reading) == "train: 2000 J in 20 s (100 W); meter, GPU"
    assert (meter.why, meter.notes, meter.temperature_c()) == (None, (), 61.0)


def test_two_gpus_and_a_cpu(clock):
    """Sums, the coarsest step and the longest period of all."""
    counters = [
        steady(clock, 100, name="GPU 0", source="A", period_s=0.1, resolution_j=1.0, temperature_c=50.0),
        steady(clock, 200, name="GPU 1", source="A", period_s=0.2, resolution_j=1.0, temperature_c=70.0),
        steady(clock, 50, name="package-0", source="B", scope="package", resolution_j=0.1, estimated=True),
    ]
    meter = EnergyMeter(sources=counters, clock=clock)
    sensor = meter.sensor
    assert (sensor.source, sensor.scope, sensor.resolution_j, sensor.estimated) == ("A + B", "GPU + package", 1.0, True)
    assert sensor.period_s == pytest.approx(0.2, abs=1e-3)
    clock.advance(1 - clock.now() % 1)
    reading = measured(meter, clock, 60.0)
    assert reading.joules == pytest.approx(21000, abs=1.2)
    assert [part.name for part in reading.parts] == ["GPU 0", "GPU 1", "package-0"]
    assert [part.joules for part in reading.parts] == [pytest.approx(joules, abs=1.1) for joules in (6000, 12000, 3000)]
    assert [part.period_s for part in reading.parts[:2]] == [pytest.approx(0.1, abs=1e-3), pytest.approx(0.2, abs=1e-3)]
    assert reading.sensor == sensor
    assert meter.temperature_c() == 70.0


def test_nested_overlapping_and_repeated_windows(clock):
    meter = EnergyMeter(sources=[steady(clock)], clock=clock)
    meter.begin_window("run")
    for _ in range(2):
        with meter.window("step") as step:
            meter.begin_window("overlaps")
            clock.advance(1.0)
        clock.advance(2.0)
        assert step.reading.joules == pytest.approx(100)
        assert meter.end_window("overlaps").joules == pytest.approx(300)
    assert meter.end_window("run").joules == pytest.approx(600)


def test_names_that_are_open_or_not(clock):
    meter = EnergyMeter(sources=[steady(clock)], clock=clock)
    with pytest.raises(ValueError, match=r"end_window: expected the name of an open window \(none\), got 'a'"):
        meter.end_window("a")
    meter.begin_window("a")
    with pytest.raises(ValueError, match="begin_window: expected the name of no open window, got 'a'"):
        meter.begin_window("a")
    with pytest.raises(ValueError, match=r"\('a'\), got 'b'"):
        meter.end_window("b")
    clock.advance(1.0)
    assert meter.end_window("a").joules == pytest.approx(100)


def test_an_exception_inside_goes_on(clock):
    meter = EnergyMeter(sources=[steady(clock)], clock=clock)
    windows = []

    def train():
        with meter.window("train") as window:
            windows.append(window)
            clock.advance(10.0)
            assert window.reading is None
            raise KeyError("the training's own")

    with pytest.raises(KeyError, match="the training's own"):
        train()
    [window] = windows
    assert window.reading.joules == pytest.approx(1000)
    assert measured(meter, clock, 1.0, "train").joules == pytest.approx(100)


@pytest.mark.parametrize(
    ("seconds", "known", "sentence"),
    [
        (0.05, False, "a window of 0.05 s is shorter than the counter's update period of 0.1 s"),
        (1.0, True, "a short window: the counter moves every 0.1 s, so 100 J in 1 s may be off by 10%"),
        (1.99, True, "off by 5%"),
        (2.5, True, None),
    ],
)
def test_windows_that_are_short_for_the_counter(clock, seconds, known, sentence):
    meter = EnergyMeter(sources=[steady(clock, period_s=0.1)], clock=clock)
    assert meter.sensor.period_s == pytest.approx(0.1, abs=1e-3)
    clock.advance(1.05 - clock.now() % 0.1)  # the counter has moved shortly before
    reading = measured(meter, clock, seconds)
    assert (reading.joules is not None) == known
    assert reading.warning is None or known
    said = reading.warning if known else reading.why
    assert said is sentence is None or sentence in said


def test_a_counter_of_coarse_steps(clock):
    """50 J a step: 1000 J may be off by 50."""
    meter = EnergyMeter(sources=[steady(clock, resolution_j=50.0)], clock=clock)
    assert "moves every 0.5 s by at least 50 J" in measured(meter, clock, 10.0).warning
    assert measured(meter, clock, 60.0).warning is None
    assert measured(meter, clock, 0.4).joules is None


def test_a_counter_that_stands_still(clock):
    """Never 0 J."""
    meter = EnergyMeter(sources=[steady(clock, watts=0.0)], clock=clock)
    assert meter.sensor.period_s is None
    reading = measured(meter, clock, 10.0)
    assert (reading.joules, reading.mean_w) == (None, None)
    assert reading.why == "replay: the counter did not move in the 10 s of the window"
    assert str(reading).startswith("w: unknown energy in 10 s: replay: the counter did not move")


def test_of_several_counters_the_worst_is_told_or_none(clock):
    """One stands still and has no known step."""
    still = steady(clock, watts=0.0, name="still")
    sensor = EnergyMeter(sources=[steady(clock, period_s=0.1, resolution_j=1.0), still], clock=clock).sensor
    assert sensor.period_s is sensor.resolution_j is None


def test_a_period_that_was_not_seen_is_told(clock):
    meter = EnergyMeter(sources=[Replay([(0, 0), (10, 0), (70, 6000)], clock=clock)], clock=clock)
    assert meter.sensor.period_s is None
    clock.advance(10.0 - clock.now())
    reading = measured(meter, clock, 60.0)
    assert reading.joules == pytest.approx(6000)
    assert "how often the counter moves is unknown" in reading.warning


def test_what_cannot_be_read_for_a_while_has_not_moved(clock):
    class Comes(Broken):
        period_s = None

        def read(self):
            return super().read() if int(clock.now() / 0.3) % 2 else 7.0

    assert EnergyMeter(sources=[Comes()], clock=clock).sensor.period_s is None


def test_watching_is_bounded_and_done_once(clock):
    meter = EnergyMeter(sources=[steady(clock, period_s=7.0)], clock=clock)
    assert clock.now() == 0.0  # not at construction
    assert meter.sensor.period_s is None
    assert clock.now() == pytest.approx(2.0, abs=1e-3)
    measured(meter, clock, 1.0)
    assert clock.now() == pytest.approx(3.0, abs=1e-3)


def test_watching_is_outside_of_the_window(clock):
    meter = EnergyMeter(sources=[steady(clock, period_s=0.1)], clock=clock)
    assert measured(meter, clock, 5.0).seconds == pytest.approx(5.0)
    assert clock.now() > 5.1


def test_a_reset(clock):
    meter = EnergyMeter(sources=[Replay([(0, 5000), (10, 6000), (10, 0), (60, 5000)], clock=clock)], clock=clock)
    reading = measured(meter, clock, 20.0)
    assert reading.joules is None
    assert "the counter went down, from " in reading.why
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000)


def test_a_wrap(clock):
    """6000 J, then 0 again: 2000 J over it."""
    samples = [(0, 5000), (10, 6000), (10, 0), (60, 5000)]
    meter = EnergyMeter(sources=[Replay(samples, clock=clock, wraps_at_j=6000.0)], clock=clock)
    assert measured(meter, clock, 20.0).joules == pytest.approx(2000)


def test_many_wraps_in_one_window(clock):
    """The counter is read on the way: 100 W for 40 minutes, around every minute."""
    samples = [sample for minute in range(60) for sample in ((60 * minute, 0), (60 * minute + 60, 6000))]
    meter = EnergyMeter(sources=[Replay(samples, clock=clock, wraps_at_j=6000.0)], clock=clock)
    assert measured(meter, clock, 2400.0).joules == pytest.approx(240000)


def test_a_reset_is_not_taken_for_a_wrap(clock):
    """From 10 kJ to 0 would be 252 kJ in 10 s."""
    samples = [(0, 9000), (10, 10000), (10, 0), (60, 5000)]
    meter = EnergyMeter(sources=[Replay(samples, clock=clock, wraps_at_j=262144.0)], clock=clock)
    reading = measured(meter, clock, 15.0)
    assert reading.joules is None
    assert "it was reset" in reading.why


def test_a_counter_that_vanishes(clock):
    """What the others have counted stays in the parts; the sum is unknown."""
    counters = [Replay([(0, 0), (30, 3000)], clock=clock, name="GPU 0"), steady(clock, name="GPU 1")]
    meter = EnergyMeter(sources=counters, clock=clock)
    assert measured(meter, clock, 10.0).joules == pytest.approx(2000)
    reading = measured(meter, clock, 30.0)
    assert reading.joules is None
    assert reading.why == "GPU 0: the recording ends after 30 s"
    assert [part.joules for part in reading.parts] == [None, pytest.approx(3000)]
    assert measured(meter, clock, 30.0).joules is None


def test_errors_of_any_counter_are_told_and_not_raised(clock):
    meter = EnergyMeter(sources=[Broken()], clock=clock)
    assert measured(meter, clock, 10.0).why == "broken: cable pulled"
    assert meter.temperature_c() is None


def test_without_counters(clock):
    meter = EnergyMeter(sources=[], clock=clock)
    assert meter.sensor is None
    assert meter.temperature_c() is None
    assert meter.why == "no energy counter can be read here: no sources are given"
    reading = measured(meter, clock, 3.0)
    assert (reading.joules, reading.seconds, reading.why, reading.parts) == (None, 3.0, meter.why, ())
