"""NVIDIA's GPUs, by NVML: their energy counters, or their power, integrated, where they have none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .counter import Counter, Power, Unreadable
from .visible import visible_devices

# What to do, by the name of NVML's error.
ADVICE = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "NVIDIA's driver is not installed, or hidden from this container",
    "NVML_ERROR_DRIVER_NOT_LOADED": "NVIDIA's driver is not running",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "the driver was updated under a running one; restart the machine",
    "NVML_ERROR_NO_PERMISSION": "this user may not read it; a container needs NVIDIA_DRIVER_CAPABILITIES=utility",
    "NVML_ERROR_UNINITIALIZED": "something in this process has shut NVML down",
    "NVML_ERROR_GPU_IS_LOST": "the GPU has fallen off the bus, or was reset",
    "NVML_ERROR_RESET_REQUIRED": "the GPU has to be reset",
}

# Power is sampled so often; it moves every 20 to 100 ms.
SAMPLE_S = 0.05
# Since Ampere, what NVML calls the power usage is the mean of the last second.
AVERAGED_S = 1.0


class Nvml:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible; all of them, or none.

    Args:
        devices: which of the visible ones, numbered as torch does; None: all. A process per GPU takes its own.
    """

    def __init__(self, devices: Sequence[int] | None = None) -> None:
        self.devices = devices

    def counters(self) -> list[Counter]:
        """Of each GPU one. Raises Unreadable where a GPU has none, ValueError for a device that is not visible."""
        nvml = _library()
        with _sentences(nvml):
            nvml.nvmlInit()
            handles = self._handles(nvml)
        return [self._counter(nvml, number, handle) for number, handle in handles.items()]

    def _counter(self, nvml: Any, number: int, handle: Any) -> Counter:
        try:
            with _sentences(nvml):
                return _counter(nvml, handle, f"GPU {number}: {nvml.nvmlDeviceGetName(handle)}")
        except Unreadable as error:
            raise Unreadable(f"GPU {number}: {error}") from None

    def _handles(self, nvml: Any) -> dict[int, Any]:
        """{torch's number of it: NVML's handle}"""
        count = nvml.nvmlDeviceGetCount()
        handle = nvml.nvmlDeviceGetHandleByIndex
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = visible_devices(setting, count, lambda index: nvml.nvmlDeviceGetUUID(handle(index)))
        numbers = range(len(visible)) if self.devices is None else self.devices
        if unknown := [number for number in numbers if number not in range(len(visible))]:
            raise ValueError(f"Nvml: expected devices below {len(visible)}, the number of visible GPUs, got {unknown}")
        by_speed = os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and not (setting or "").startswith("GPU-")
        if by_speed and len(numbers) < count and len({nvml.nvmlDeviceGetName(handle(index)) for index in range(count)}) > 1:
            raise Unreadable(
                "the GPUs here differ, and CUDA numbers them by speed where NVML numbers them by slot; "
                "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to UUIDs"
            )
        return {number: handle(visible[number]) for number in numbers}


class _Device:
    """One GPU, as NVML knows it."""

    def __init__(self, nvml: Any, handle: Any, name: str, scope: str) -> None:
        self._nvml, self._handle = nvml, handle
        self.name, self.scope = name, scope

    def temperature_c(self) -> float | None:
        """Of the GPU, in degrees Celsius."""
        nvml = self._nvml
        for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):  # older drivers have the second alone
            with suppress(nvml.NVMLError):
                return float(getattr(nvml, function)(self._handle, nvml.NVML_TEMPERATURE_GPU))
        return None


class EnergyCounter(_Device, Counter):
    """Millijoules since the driver was loaded; Volta and newer."""

    source = "NVML energy counter"
    resolution_j = 1e-3

    def read(self) -> float:
        with _sentences(self._nvml):
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3


class InstantPower(_Device, Power):
    """The power of this moment, by a field that newer drivers have."""

    source = "NVML instantaneous power, integrated"
    period_s = SAMPLE_S
    poll_s = SAMPLE_S

    def read(self) -> float:
        nvml = self._nvml
        scope = nvml.NVML_POWER_SCOPE_MODULE if self.scope == "module" else nvml.NVML_POWER_SCOPE_GPU
        with _sentences(nvml):
            field = nvml.nvmlDeviceGetFieldValues(self._handle, [(nvml.NVML_FI_DEV_POWER_INSTANT, scope)])[0]
            if field.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(field.nvmlReturn)
            return field.value.uiVal / 1e3


class PowerUsage(_Device, Power):
    """What the oldest drivers show, too."""

    source = "NVML power usage, integrated"
    period_s = AVERAGED_S
    poll_s = SAMPLE_S

    def read(self) -> float:
        with _sentences(self._nvml):
            return self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3


# The first that a GPU supports is taken.
COUNTERS: tuple[Callable[[Any, Any, str, str], Counter], ...] = (EnergyCounter, InstantPower, PowerUsage)


def _library() -> Any:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise Unreadable("NVML needs nvidia-ml-py: `pip install sparse_ext[energy]`") from None
    if not hasattr(nvml, "nvmlDeviceGetTemperatureV"):  # the newest function that is used: of 12.570
        raise Unreadable("the module pynvml that is installed here is another or an old one: `pip install -U nvidia-ml-py`")
    return nvml


def _counter(nvml: Any, handle: Any, name: str) -> Counter:
    """The best that this GPU supports."""
    if _is_divided(nvml, handle):
        raise Unreadable("it is divided into MIG instances, which have no counters of their own")
    scope = "module" if _shares_a_module(nvml, handle) else "GPU"
    for kind in COUNTERS:
        counter = kind(nvml, handle, name, scope)
        with suppress(_NotSupported):
            counter.read()
            return counter
    raise Unreadable("it shows neither its energy nor its power, as virtual GPUs do")


def _is_divided(nvml: Any, handle: Any) -> bool:
    with suppress(_NotSupported), _sentences(nvml):
        return nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    return False


def _shares_a_module(nvml: Any, handle: Any) -> bool:
    """Whether a CPU is joined to this GPU, as in a GH200: its counter has the whole module."""
    with suppress(_NotSupported), _sentences(nvml):
        return bool(nvml.nvmlDeviceGetC2cModeInfoV(handle).isC2cEnabled)
    return False


class _NotSupported(Unreadable):
    """Not by this GPU or this driver; another way may be."""


@contextmanager
def _sentences(nvml: Any) -> Iterator[None]:
    """NVML's errors as sentences."""
    try:
        yield
    except nvml.NVMLError as error:
        missing = error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        advice = next((f": {text}" for name, text in ADVICE.items() if getattr(nvml, name) == error.value), "")
        raise (_NotSupported if missing else Unreadable)(f"NVML says {str(error)!r}{advice}") from None
