"""CUDA_VISIBLE_DEVICES, as CUDA reads it, and torch's numbers of GPUs."""

import pytest
from counters import measured
from fake_nvml import h100, meter_of


@pytest.mark.parametrize(
    ("setting", "watts"),
    [
        (None, [100, 200, 300]),
        ("0", [100]),
        ("2,0", [300, 100]),
        ("1, 2", [200, 300]),
        ("0,0", [100]),  # not twice
        ("1,-1,0", [200]),  # the list ends before what names no GPU
        ("1,7,0", [200]),
        ("GPU-22-abcd", [300]),
        ("GPU-1", [200]),  # abbreviated
        ("GPU-22-abcd,GPU-00", [300, 100]),
        ("GPU-2,GPU-99,GPU-0", [300]),
    ],
)
def test_visible_devices(machine, monkeypatch, setting, watts):
    _, clock = machine(h100(0), h100(1), h100(2))
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    reading = measured(meter_of(clock), clock, 100.0)
    assert [round(part.mean_w) for part in reading.parts] == watts
    assert [part.name[:5] for part in reading.parts] == [f"GPU {number}" for number in range(len(watts))]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("", "CUDA_VISIBLE_DEVICES='' makes none of 3 GPUs visible"),
        ("-1", "makes none"),
        ("NoDevFiles", "makes none"),
        ("GPU-", "makes none"),  # fits all
        ("MIG-4b2c", "names a MIG instance, MIG-4b2c: only whole GPUs have counters"),
        ("MIG-GPU-00-abcd/1/0", "names a MIG instance"),
    ],
)
def test_no_visible_device(machine, monkeypatch, setting, sentence):
    _, clock = machine(h100(0), h100(1), h100(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    meter = meter_of(clock)
    assert meter.sensor is None
    assert sentence in meter.why


def test_devices_are_numbered_as_torch_does(machine, monkeypatch):
    _, clock = machine(h100(0), h100(1), h100(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    reading = measured(meter_of(clock, devices=[1]), clock, 100.0)
    assert [(part.name[:5], round(part.mean_w)) for part in reading.parts] == [("GPU 1", 200)]
    with pytest.raises(ValueError, match=r"expected devices below 2, the number of visible GPUs, got \[2\]"):
        meter_of(clock, devices=[2])


@pytest.mark.parametrize(
    ("setting", "order", "readable"),
    [
        (None, None, True),  # all of them, in whatever order
        ("0", None, False),
        ("0", "PCI_BUS_ID", True),
        ("GPU-00", None, True),
    ],
)
def test_different_gpus_are_not_taken_for_each_other(machine, monkeypatch, setting, order, readable):
    """CUDA puts the fastest first, NVML goes by slot."""
    _, clock = machine(h100(0), h100(1, name="NVIDIA T4"))
    for name, value in (("CUDA_VISIBLE_DEVICES", setting), ("CUDA_DEVICE_ORDER", order)):
        if value is not None:
            monkeypatch.setenv(name, value)
    meter = meter_of(clock)
    assert (meter.sensor is not None) == readable
    assert readable or "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in meter.why
