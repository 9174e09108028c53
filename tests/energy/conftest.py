"""What the tests of energy share."""

import sys

import pytest
from fake_nvml import FakeNvml

from sparse_ext.energy import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def machine(monkeypatch):
    """(gpus) -> (nvml, clock), installed as the module `pynvml`."""

    def install(*gpus):
        clock = ManualClock(now=1000.0)
        nvml = FakeNvml(list(gpus), clock)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml, clock

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    return install
