"""The edges of windows: a device works on while Python has gone ahead."""

import sys
from types import SimpleNamespace

import pytest
from counters import measured, steady

from sparse_ext.energy import EnergyMeter


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
