"""NVIDIA's GPUs, by a fake `pynvml`: which are read, how, and what every error comes to."""

import inspect
import sys

import pytest
from counters import measured
from fake_nvml import CONSTANTS, ERRORS, FakeNvml, Gpu, h100, meter_of

from sparse_ext.energy import EnergyMeter

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def test_two_gpus_are_added_up(machine):
    _, clock = machine(h100(0), h100(1))
    meter = meter_of(clock)
    reading = measured(meter, clock, 20.0)
    assert reading.joules == pytest.approx(6000, rel=0.011)  # the counters lag by up to 0.1 s at each edge
    assert reading.seconds == 20.0
    assert reading.mean_w == pytest.approx(300, rel=0.011)
    assert [part.name for part in reading.parts] == ["GPU 0: NVIDIA H100", "GPU 1: NVIDIA H100"]
    assert [round(part.joules, -2) for part in reading.parts] == [2000, 4000]
    assert (reading.source, reading.scope, reading.estimated) == ("NVML energy counter", "GPU", False)
    assert reading.period_s == pytest.approx(0.1, abs=1e-3)
    assert reading.resolution_j == 1e-3
    assert reading.why is reading.warning is None
    assert meter.temperature_c() == 41
    assert meter.why is None


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
def test_every_error_of_the_library_is_a_sentence(machine, function, error):
    nvml, clock = machine(h100())
    nvml.errors[function] = error
    meter = meter_of(clock)
    assert meter.sensor is None
    assert error in meter.why
    reading = measured(meter, clock, 1.0)
    assert (reading.joules, reading.mean_w, reading.seconds, reading.why) == (None, None, 1.0, meter.why)
    assert reading.source is reading.scope is reading.resolution_j is reading.period_s is None
    assert not reading.estimated


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", ENERGY])
def test_a_gpu_that_cannot_be_read_leaves_none(machine, monkeypatch, function, error):
    """The other one alone would be half of the energy, unless it was asked for."""
    missing = error in ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND")
    errors = {function: error, "nvmlDeviceGetPowerUsage": error, "field": error}
    _, clock = machine(h100(0), h100(1, errors=errors))
    meter = meter_of(clock)
    assert meter.sensor is None
    if function == ENERGY and missing:
        assert "GPU 1: it shows neither its energy nor its power" in meter.why
    else:
        assert error in meter.why
    assert measured(meter, clock, 1.0).joules is None
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert meter_of(clock, devices=[0]).sensor is not None


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_inside_a_window(machine, error):
    """Joules are unknown, training goes on, and the next window is right again."""
    gpu = h100()
    _, clock = machine(gpu)
    meter = meter_of(clock)
    meter.begin_window("w")
    clock.advance(5.0)
    gpu.errors[ENERGY] = error
    lost = meter.end_window("w")
    assert lost.joules is None
    assert error in lost.why
    assert lost.seconds == 5.0
    assert lost.sensor is not None
    meter.begin_window("begun while it is lost")
    clock.advance(5.0)
    gpu.errors.clear()
    late = meter.end_window("begun while it is lost")
    assert late.joules is None
    assert error in late.why
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000, rel=0.011)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("NVML_ERROR_LIBRARY_NOT_FOUND", "driver is not installed"),
        ("NVML_ERROR_DRIVER_NOT_LOADED", "driver is not running"),
        ("NVML_ERROR_NO_PERMISSION", "NVIDIA_DRIVER_CAPABILITIES"),
        ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", "restart"),
    ],
)
def test_errors_say_what_helps(machine, error, advice):
    nvml, clock = machine(h100())
    nvml.errors["nvmlInit"] = error
    assert advice in meter_of(clock).why


def test_a_counter_that_is_reset(machine):
    """The driver is loaded again: the counter begins at 0."""
    gpu = h100()
    _, clock = machine(gpu)
    meter = meter_of(clock)
    meter.begin_window("w")
    gpu.joules = lambda s: 100.0 * (s - 1000.0)
    clock.advance(5.0)
    reading = meter.end_window("w")
    assert reading.joules is None
    assert "went down" in reading.why
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000, rel=0.011)


def test_a_reset_between_windows_is_no_windows_business(machine):
    gpu = h100()
    _, clock = machine(gpu)
    meter = meter_of(clock)
    measured(meter, clock, 5.0)
    gpu.joules = lambda s: 100.0 * (s - 1000.0)
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000, rel=0.011)


@pytest.mark.parametrize("joined", [False, True])
def test_without_a_counter_power_is_integrated(machine, joined):
    """A ramp from 100 W to 300 W in 10 s: 2000 J."""
    nvml, clock = machine(
        Gpu(watts=lambda s: 100 + 20 * (s - 1000), joined=joined, errors={ENERGY: "NVML_ERROR_NOT_SUPPORTED"})
    )
    meter = meter_of(clock)
    reading = measured(meter, clock, 10.0)
    assert reading.joules == pytest.approx(2000, rel=1e-4)
    assert reading.estimated
    assert reading.source == "NVML instantaneous power, integrated"
    assert reading.scope == ("module" if joined else "GPU")
    assert set(nvml.power_scopes) == {int(joined)}
    assert reading.period_s == 0.05


def test_power_is_sampled_while_a_window_is_open(machine):
    """Two halves of 100 and 300 W: the samples in between see the change. No window, no sampling."""
    nvml, clock = machine(Gpu(watts=lambda s: 100.0 if s < 1005 else 300.0, errors={ENERGY: "NVML_ERROR_NOT_SUPPORTED"}))
    meter = meter_of(clock)
    assert measured(meter, clock, 10.0).joules == pytest.approx(2000, rel=0.003)
    samples = len(nvml.power_scopes)
    assert samples > 190
    clock.advance(100.0)
    assert len(nvml.power_scopes) == samples


def test_old_drivers_show_the_mean_power_of_a_second(machine):
    errors = {ENERGY: "NVML_ERROR_NOT_SUPPORTED", "field": "NVML_ERROR_NOT_SUPPORTED"}
    _, clock = machine(h100(errors=errors))
    meter = meter_of(clock)
    reading = measured(meter, clock, 30.0)
    assert reading.joules == pytest.approx(3000)
    assert (reading.source, reading.period_s, reading.estimated) == ("NVML power usage, integrated", 1.0, True)
    assert reading.warning is None
    assert "off by 10%" in measured(meter, clock, 10.0).warning
    assert measured(meter, clock, 0.5).joules is None


def test_a_sample_that_fails_leaves_a_gap(machine):
    gpu = h100(errors={ENERGY: "NVML_ERROR_NOT_SUPPORTED"})
    _, clock = machine(gpu)
    meter = meter_of(clock)
    meter.begin_window("w")
    clock.advance(1.0)
    gpu.errors["field"] = "NVML_ERROR_TIMEOUT"
    clock.advance(1.0)
    del gpu.errors["field"]
    clock.advance(1.0)
    reading = meter.end_window("w")
    assert reading.joules is None
    assert "TIMEOUT" in reading.why


def test_a_grace_hopper_is_a_module(machine):
    _, clock = machine(h100(joined=True))
    reading = measured(meter_of(clock), clock, 10.0)
    assert reading.scope == "module"


@pytest.mark.parametrize("error", ["NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND"])
def test_what_older_gpus_and_drivers_do_not_know(machine, error):
    _, clock = machine(
        h100(errors={"nvmlDeviceGetMigMode": error, "nvmlDeviceGetC2cModeInfoV": error, "nvmlDeviceGetTemperatureV": error})
    )
    meter = meter_of(clock)
    assert measured(meter, clock, 10.0).scope == "GPU"
    assert meter.temperature_c() == 40


@pytest.mark.parametrize("function", ["nvmlDeviceGetMigMode", "nvmlDeviceGetC2cModeInfoV"])
def test_a_gpu_that_does_not_say_what_its_counter_has(machine, function):
    _, clock = machine(h100(errors={function: "NVML_ERROR_UNKNOWN"}))
    assert "GPU 0: NVML says 'NVML_ERROR_UNKNOWN'" in meter_of(clock).why


def test_no_temperature(machine):
    gpu = h100(errors=dict.fromkeys(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), "NVML_ERROR_NOT_SUPPORTED"))
    _, clock = machine(gpu)
    assert meter_of(clock).temperature_c() is None


def test_a_divided_gpu_has_no_counter_per_instance(machine):
    _, clock = machine(h100(divided=True))
    assert "MIG instances, which have no counters of their own" in meter_of(clock).why


def test_a_machine_without_gpus(machine):
    _, clock = machine()
    assert "NVML sees no GPU" in meter_of(clock).why


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "`pip install sparse_ext[energy]`" in EnergyMeter(sources=["nvml"]).why


def test_another_package_of_that_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", sys)
    assert "`pip install -U nvidia-ml-py`" in EnergyMeter(sources=["nvml"]).why


def test_the_fake_is_like_the_real_one():
    """Names, values and arguments."""
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    assert {name: getattr(real, name) for name in CONSTANTS} == CONSTANTS
    assert issubclass(real.NVMLError, Exception)
    assert real.NVMLError(CONSTANTS["NVML_ERROR_GPU_IS_LOST"]).value == CONSTANTS["NVML_ERROR_GPU_IS_LOST"]
    for name in dir(FakeNvml):
        if name.startswith("nvml"):
            ours = inspect.signature(getattr(FakeNvml, name)).parameters
            theirs = inspect.signature(getattr(real, name)).parameters
            assert list(ours)[1:] == list(theirs)[: len(ours) - 1], name
            assert all(extra.default is not extra.empty for extra in list(theirs.values())[len(ours) - 1 :]), name
    field = real.c_nvmlFieldValue_t()
    assert (field.nvmlReturn, field.value.uiVal) == (0, 0)
    assert "isC2cEnabled" in dict(real.c_nvmlC2cModeInfo_v1_t._fields_)
