"""The clock of a GPU's multiprocessors, through NVML: read, and locked where this process may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch


class Unmeasured(RuntimeError):
    """Something cannot be measured here. The message says why."""


class GpuClock(Protocol):
    """What tells and sets a GPU's frequency."""

    def mhz(self) -> int:
        """The frequency at this moment."""

    def locked(self, mhz: int) -> Any:
        """A context in which it stays at this frequency."""


class SmClock:
    """The clock of one GPU.

    Raises:
        Unmeasured: the device has no such clock, or NVML does not serve it; also by `mhz` and `locked`.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise Unmeasured(f"the frequency is unknown: a clock is read of NVIDIA GPUs only, and the model is on {device}")
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError:
            raise Unmeasured("the frequency is unknown: NVML is read with nvidia-ml-py (pip install nvidia-ml-py)") from None
        with self._errors("the frequency is unknown"):
            self._nvml.nvmlInit()
            # By its UUID: NVML does not obey CUDA_VISIBLE_DEVICES.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.mhz()

    def mhz(self) -> int:
        with self._errors("the frequency is unknown"):
            return int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))

    @contextmanager
    def locked(self, mhz: int) -> Iterator[None]:
        """NVML takes the nearest frequency that the GPU has. What was locked before is not restored."""
        with self._errors(f"the clock cannot be set to {mhz} MHz (setting it needs administrator rights)"):
            self._nvml.nvmlDeviceSetGpuLockedClocks(self._handle, mhz, mhz)
        try:
            yield
        finally:
            with self._errors("the clock cannot be unlocked"):
                self._nvml.nvmlDeviceResetGpuLockedClocks(self._handle)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise Unmeasured(f"{what}: NVML says {error}") from error
