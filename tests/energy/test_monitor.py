"""Other monitors in the meter's place: objects of the shape of zeus' ZeusMonitor, and zeus itself where it is installed."""

from dataclasses import dataclass, field, fields
from types import SimpleNamespace

import pytest

from sparse_ext.energy import EnergyMeter, ManualClock, Reading, Replay


@dataclass
class Measurement:
    """As zeus.monitor.energy.Measurement, 0.16: joules; those of `soc_energy` are millijoules."""

    time: float
    gpu_energy: dict = field(default_factory=dict)
    cpu_energy: dict | None = None
    dram_energy: dict | None = None
    soc_energy: object = None

    @property
    def total_energy(self):
        return sum(self.gpu_energy.values())


class ZeusMonitor:
    """As zeus.monitor.ZeusMonitor, for what it is given."""

    def __init__(self, measurement, gpu_indices=(0, 1), cpu_indices=(), soc=False, **options):
        self.measurement, self.calls = measurement, []
        self.gpu_indices, self.cpu_indices, self.soc_is_present = list(gpu_indices), list(cpu_indices), soc
        self.power_monitor, self.approx_instant_energy = None, False
        self.gpus = SimpleNamespace(get_gpu_temperature=lambda index: 50 + index)
        vars(self).update(options)

    def begin_window(self, key, sync_execution=True, restart=False):
        self.calls.append(("begin", key))

    def end_window(self, key, sync_execution=True, cancel=False):
        self.calls.append(("end", key))
        if isinstance(self.measurement, Exception):
            raise self.measurement
        return self.measurement


def read(monitor):
    meter = EnergyMeter(monitor)
    with meter.window("train") as window:
        pass
    return meter, window.reading


def test_gpus():
    monitor = ZeusMonitor(Measurement(4.0, {0: 100.0, 1: 300.0}))
    meter, reading = read(monitor)
    assert monitor.calls == [("begin", "train"), ("end", "train")]
    assert (reading.name, reading.joules, reading.seconds, reading.mean_w) == ("train", 400.0, 4.0, 100.0)
    assert (reading.source, reading.scope, reading.estimated) == ("ZeusMonitor of test_monitor", "GPU", False)
    assert reading.resolution_j is reading.period_s is reading.why is None
    assert [(part.name, part.joules) for part in reading.parts] == [("GPU 0", 100.0), ("GPU 1", 300.0)]
    assert meter.temperature_c() == 51.0
    assert meter.why is None


def test_cpus_are_joules_too():
    """zeus divides millijoules by 1000 and goes on to call them cpu_mj; what its Measurement has are joules."""
    monitor = ZeusMonitor(Measurement(2.0, {0: 100.0}, {0: 40.0}, {0: 5.0}), cpu_indices=[0])
    meter = EnergyMeter(monitor)
    assert meter.sensor.scope == "GPU + package"
    with meter.window("train") as window:
        pass
    assert window.reading.joules == 145.0
    assert window.reading.scope == meter.sensor.scope == "GPU + package + DRAM"


@pytest.mark.parametrize(
    ("soc", "joules"),
    [
        (
            SimpleNamespace(cpu_total_mj=2000, efficiency_cores_mj=[900], gpu_mj=3000, ane_mj=0, dram_mj=500, gpu_sram_mj=None),
            5.5,
        ),
        (SimpleNamespace(cpu_energy_mj=2000.0, gpu_energy_mj=3000.0, total_energy_mj=9000.0), 9.0),
        (SimpleNamespace(cpu_energy_mj=2000.0, gpu_energy_mj=3000.0, total_energy_mj=None), 5.0),
    ],
    ids=["Apple", "Jetson", "Jetson without a total"],
)
def test_systems_on_a_chip(soc, joules):
    _, reading = read(ZeusMonitor(Measurement(1.0, soc_energy=soc), gpu_indices=[], soc=True))
    assert (reading.joules, reading.scope) == (joules, "module")


@pytest.mark.parametrize("option", [{"power_monitor": object()}, {"approx_instant_energy": True}])
def test_integrated_power_is_an_estimate(option):
    assert read(ZeusMonitor(Measurement(1.0, {0: 5.0}), **option))[1].estimated


@pytest.mark.parametrize("joules", [0.0, -3.0, float("nan")])
def test_zero_is_unknown(joules):
    """zeus gives 0 J for a window shorter than the counter's period, and less where a counter was reset."""
    _, reading = read(ZeusMonitor(Measurement(0.01, {0: joules, 1: 2.0})))
    assert reading.joules is None
    assert "GPU 0: the counter moved by" in reading.why
    assert [part.joules for part in reading.parts] == [None, 2.0]


def test_a_monitor_that_finds_no_counter():
    """zeus says nothing, and 0 J."""
    meter, reading = read(ZeusMonitor(Measurement(1.0), gpu_indices=[]))
    assert meter.sensor is None
    assert (reading.joules, reading.seconds) == (None, 1.0)
    assert reading.why == meter.why == "ZeusMonitor of test_monitor finds no counter that it can read here"
    assert meter.temperature_c() is None


def test_trouble_of_the_monitor_is_not_the_trainings():
    _, reading = read(ZeusMonitor(RuntimeError("GPU is lost")))
    assert (reading.joules, reading.why) == (None, "ZeusMonitor of test_monitor: GPU is lost")
    assert reading.seconds > 0

    monitor = ZeusMonitor(Measurement(1.0, {0: 5.0}))
    monitor.begin_window = lambda key: monitor.nothing
    _, reading = read(monitor)
    assert reading.joules is None
    assert "nothing" in reading.why
    assert monitor.calls == []


def test_names_are_the_meters_business():
    monitor = ZeusMonitor(Measurement(1.0, {0: 5.0}))
    meter = EnergyMeter(monitor)
    meter.begin_window("a")
    with pytest.raises(ValueError, match="expected the name of no open window"):
        meter.begin_window("a")
    assert monitor.calls == [("begin", "a")]


class Watts:
    """Another's monitor, which knows a total alone."""

    def begin_window(self, name):
        pass

    def end_window(self, name):
        return SimpleNamespace(total_energy=12.5)


def test_a_total_alone():
    meter, reading = read(Watts())
    assert (reading.joules, reading.scope, reading.source) == (12.5, "not stated", "Watts of test_monitor")
    assert meter.sensor.scope == "not stated"
    assert meter.temperature_c() is None
    assert reading.mean_w == pytest.approx(12.5 / reading.seconds)


def test_a_meter_in_a_meter():
    clock = ManualClock()
    inner = EnergyMeter(sources=[Replay([(0, 0), (100, 1000)], clock=clock)], clock=clock)
    meter = EnergyMeter(inner, clock=clock)
    with meter.window("train") as window:
        clock.advance(10.0)
    assert isinstance(window.reading, Reading)
    assert window.reading.joules == pytest.approx(100)
    assert meter.sensor.source == "replay"


def test_what_measures_nothing():
    class Silent(Watts):
        def end_window(self, name):
            return 7

    assert "expected gpu_energy or total_energy, got 7" in read(Silent())[1].why


@pytest.mark.parametrize("monitor", [[], 3, SimpleNamespace(begin_window=print)])
def test_what_is_no_monitor(monitor):
    with pytest.raises(TypeError, match="expected a monitor with begin_window and end_window, got"):
        EnergyMeter(monitor)


def test_a_monitor_or_sources():
    with pytest.raises(ValueError, match="expected a monitor or sources, got both"):
        EnergyMeter(Watts(), sources=[])


def test_zeus_itself():
    """Its fields are those of ours; on a machine without counters it says 0 J, and the meter says why."""
    energy = pytest.importorskip("zeus.monitor.energy", reason="zeus is not installed")
    assert [one.name for one in fields(energy.Measurement)] == [one.name for one in fields(Measurement)]
    meter, reading = read(energy.ZeusMonitor())
    assert reading.seconds > 0
    assert (reading.joules is None) == (reading.why is not None)
    assert (meter.sensor is None) == (meter.why is not None)
