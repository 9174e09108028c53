"""What counts the energy of a comparison: the CPU, and of several GPUs the one that trains."""

import pytest
import torch

from sparse_ext import energy
from sparse_ext.compare.meter import default_meter


class TwoGpus:
    def __init__(self, devices=(0, 1)):
        self.devices = devices

    def counters(self):
        return [energy.Replay([(0, 0), (600, 6000)], name=f"GPU {number}", period_s=0.01) for number in self.devices]


class Package:
    def counters(self):
        return [energy.Replay([(0, 0), (600, 6000)], name="package-0", scope="package", period_s=0.01)]


@pytest.mark.parametrize(
    ("trains", "counted"), [("cpu", ["package-0"]), ("cuda", ["GPU 1", "package-0"]), ("cuda:0", ["GPU 0", "package-0"])]
)
def test_the_gpu_that_trains_is_counted_and_no_other(monkeypatch, trains, counted):
    monkeypatch.setattr(energy, "Nvml", TwoGpus)
    monkeypatch.setattr(energy, "Rapl", Package)
    monkeypatch.setitem(energy.METERS, "nvml", TwoGpus)
    monkeypatch.setitem(energy.METERS, "rapl", Package)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    meter = default_meter(torch.device(trains))
    meter.begin_window("short")
    assert [part.name for part in meter.end_window("short").parts] == counted
