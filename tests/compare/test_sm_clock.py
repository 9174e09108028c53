"""The clock of a GPU, against an NVML that is not there, or refuses."""

import sys
from types import SimpleNamespace

import pytest
import torch

from sparse_ext.compare.sm_clock import SmClock, Unmeasured

UUID = "01234567-89ab-cdef-0123-456789abcdef"


class FakeNvml:
    """Counts what is called; `refused` raises."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, refused=None):
        self.refused, self.calls = refused, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name == self.refused:
                raise self.NVMLError("Insufficient Permissions")
            return {"nvmlDeviceGetHandleByUUID": "handle", "nvmlDeviceGetClockInfo": 1410}.get(name)

        return call


@pytest.fixture
def nvml(monkeypatch):
    """Puts one in place of pynvml."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID))

    def put(refused=None):
        fake = FakeNvml(refused)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


def test_it_is_read_and_locked(nvml):
    fake = nvml()
    clock = SmClock(torch.device("cuda", 1))
    assert clock.mhz() == 1410
    assert ("nvmlDeviceGetHandleByUUID", f"GPU-{UUID}") in fake.calls
    with clock.locked(900):
        assert fake.calls[-1] == ("nvmlDeviceSetGpuLockedClocks", "handle", 900, 900)
    assert fake.calls[-1] == ("nvmlDeviceResetGpuLockedClocks", "handle")


def test_it_is_unlocked_after_an_error(nvml):
    fake = nvml()
    with pytest.raises(ZeroDivisionError), SmClock(torch.device("cuda")).locked(900):
        1 / 0  # noqa: B018
    assert fake.calls[-1] == ("nvmlDeviceResetGpuLockedClocks", "handle")


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetClockInfo"])
def test_what_nvml_refuses_is_told(nvml, refused):
    nvml(refused)
    with pytest.raises(Unmeasured, match="the frequency is unknown: NVML says Insufficient Permissions"):
        SmClock(torch.device("cuda"))


def test_a_clock_that_may_not_be_set_is_told_and_not_reset(nvml):
    fake = nvml("nvmlDeviceSetGpuLockedClocks")
    with (
        pytest.raises(Unmeasured, match=r"cannot be set to 900 MHz \(setting it needs administrator rights\): NVML says"),
        SmClock(torch.device("cuda")).locked(900),
    ):
        pass
    assert "nvmlDeviceResetGpuLockedClocks" not in [name for name, *_ in fake.calls]


def test_without_nvml_the_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unmeasured, match="pip install nvidia-ml-py"):
        SmClock(torch.device("cuda"))
