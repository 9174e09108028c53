"""Windows, over counters that play what was recorded: what a reading says, and when it says that it does not know."""

import subprocess
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

import sparse_ext as sx
from sparse_ext.energy import METERS, Counter, EnergyMeter, ManualClock, Replay, Unreadable, sources
from sparse_ext.energy.clock import SystemClock

HOUR = 3600.0


@pytest.fixture
def clock():
    return ManualClock()


def steady(clock, watts=100.0, **options):
    """So many watts for an hour."""
    return Replay([(0, 0), (HOUR, watts * HOUR)], clock=clock, **options)


def measured(meter, clock, seconds, name="w"):
    with meter.window(name) as window:
        clock.advance(seconds)
    return window.reading


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


def test_a_period_that_was_not_seen_is_told(clock):
    meter = EnergyMeter(sources=[Replay([(0, 0), (10, 0), (70, 6000)], clock=clock)], clock=clock)
    assert meter.sensor.period_s is None
    clock.advance(10.0 - clock.now())
    reading = measured(meter, clock, 60.0)
    assert reading.joules == pytest.approx(6000)
    assert "how often the counter moves is unknown" in reading.warning


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


class Broken(Counter):
    """Somebody's counter, with an error of its own."""

    name, source, scope, period_s = "broken", "somebody's", "GPU", 1.0

    def read(self):
        raise OSError("cable pulled")

    def counters(self):
        return [self]


def test_errors_of_any_counter_are_told_and_not_raised(clock):
    reading = measured(EnergyMeter(sources=[Broken()], clock=clock), clock, 10.0)
    assert reading.why == "broken: cable pulled"


def test_without_counters(clock):
    meter = EnergyMeter(sources=[], clock=clock)
    assert meter.sensor is None
    assert meter.temperature_c() is None
    assert meter.why == "no energy counter can be read here: no sources are given"
    reading = measured(meter, clock, 3.0)
    assert (reading.joules, reading.seconds, reading.why, reading.parts) == (None, 3.0, meter.why, ())


def test_what_is_looked_for_by_default(monkeypatch, clock):
    """All rows of METERS; those that cannot be read say why."""

    class Nothing:
        def counters(self):
            raise Unreadable("nothing: expected a socket")

    monkeypatch.setattr(sources, "METERS", {"nothing": Nothing})
    assert EnergyMeter(clock=clock).why == "no energy counter can be read here: nothing: expected a socket"
    sources.METERS["replay"] = lambda: steady(clock)
    meter = EnergyMeter(clock=clock)
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000)
    assert meter.notes == ("nothing: expected a socket",)
    assert meter.why is None


def test_this_machine():
    """Whatever it has: a reading, or a reason."""
    assert list(METERS) == ["nvml", "rapl"]
    meter = sx.EnergyMeter()
    with meter.window("w") as window:
        pass
    assert (meter.sensor is None) == (meter.why is not None)
    assert window.reading.seconds > 0
    assert (window.reading.joules is None) == (window.reading.why is not None)


@pytest.mark.parametrize(
    ("scopes", "counted"),
    [
        (["GPU", "package", "DRAM"], ["GPU", "package", "DRAM"]),
        (["platform", "package", "package", "DRAM"], ["platform"]),
        (["module", "package", "DRAM"], ["module"]),
        (["module", "platform", "package"], ["module"]),
        (["GPU", "platform", "package"], ["GPU", "package"]),
        (["package", "wall"], ["package", "wall"]),
    ],
)
def test_nothing_is_counted_twice(clock, scopes, counted):
    meter = EnergyMeter(sources=[steady(clock, scope=scope, name=f"the {scope}") for scope in scopes], clock=clock)
    reading = measured(meter, clock, 10.0)
    assert [part.scope for part in reading.parts] == counted
    assert reading.joules == pytest.approx(1000 * len(counted))
    assert len(meter.notes) == len(scopes) - len(counted)
    assert all(note.startswith("the ") and "is left out" in note for note in meter.notes)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (["nvlm"], ValueError, "expected sources of 'nvml', 'rapl', got 'nvlm'"),
        ([3], TypeError, r"expected sources with counters\(\), got int"),
    ],
)
def test_what_is_no_source(given, error, sentence):
    with pytest.raises(error, match=sentence):
        EnergyMeter(sources=given)


# ---- the edges: a device that works while Python goes on


def fake_torch(monkeypatch, clock, *, initialized=True, capturing=False, contexts=(0, 2), error=None):
    """As torch with three devices, of which some are in use; waiting for one takes a second."""
    waited = []

    def synchronize(device):
        if error:
            raise RuntimeError(error)
        waited.append(device)
        clock.advance(1.0)

    cuda = SimpleNamespace(
        is_initialized=lambda: initialized,
        is_current_stream_capturing=lambda: capturing,
        device_count=lambda: 3,
        synchronize=synchronize,
    )
    fake = SimpleNamespace(cuda=cuda, _C=SimpleNamespace(_cuda_hasPrimaryContext=lambda device: device in contexts))
    monkeypatch.setitem(sys.modules, "torch", fake)
    return waited


def test_a_window_waits_for_the_devices_in_use(clock, monkeypatch):
    """The wait before is not in the window; that at its end is."""
    waited = fake_torch(monkeypatch, clock)
    meter = EnergyMeter(sources=[steady(clock)], clock=clock)
    reading = measured(meter, clock, 10.0)
    assert waited == [0, 2, 0, 2]
    assert reading.seconds == pytest.approx(12.0)
    assert reading.joules == pytest.approx(1200)


@pytest.mark.parametrize("module", ["without CUDA", "missing"])
def test_a_window_initialises_nothing(clock, monkeypatch, module):
    waited = fake_torch(monkeypatch, clock, initialized=False)
    if module == "missing":
        monkeypatch.delitem(sys.modules, "torch")
    measured(EnergyMeter(sources=[steady(clock)], clock=clock), clock, 1.0)
    assert waited == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"capturing": True}, "a CUDA graph is being captured"),
        ({"error": "CUDA error: device-side assert triggered\nsecond line"}, "device-side assert triggered"),
    ],
)
def test_a_device_that_cannot_be_waited_for(clock, monkeypatch, options, sentence):
    """Joules of work that is not over are none; the training's own error comes from the training."""
    meter = EnergyMeter(sources=[steady(clock)], clock=clock)
    with monkeypatch.context() as patch:
        fake_torch(patch, clock, **options)
        meter.begin_window("w")
    clock.advance(10.0)
    reading = meter.end_window("w")
    assert reading.joules is None
    assert sentence in reading.why
    assert "second line" not in reading.why
    assert (reading.seconds, reading.scope) == (10.0, "GPU")


# ---- clocks


def test_the_systems_clock_calls_until_it_is_told_to_stop():
    clock, called = SystemClock(), threading.Semaphore(0)
    before = set(threading.enumerate())
    end = clock.every(1e-3, called.release)
    [thread] = set(threading.enumerate()) - before
    assert all(called.acquire(timeout=10) for _ in range(3))
    end()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_importing_it_needs_nothing():
    """Neither torch nor pynvml nor codecarbon, and none of our own."""
    code = (
        "import sys, types, importlib.util as util\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "spec = util.spec_from_file_location('energy', folder / '__init__.py', submodule_search_locations=[str(folder)])\n"
        "sys.modules['energy'] = module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "with module.EnergyMeter().window('w') as window: pass\n"
        "print(window.reading.seconds > 0, [n for n in ('torch', 'numpy', 'codecarbon', 'sparse_ext') if n in sys.modules])\n"
    )
    folder = sys.modules["sparse_ext.energy"].__path__[0]
    done = subprocess.run([sys.executable, "-I", "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


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
