"""A module `pynvml` without a driver: two GPUs or more, each of which may raise any error in any function."""

from dataclasses import dataclass, field
from types import SimpleNamespace

from sparse_ext.energy import EnergyMeter, Nvml

CONSTANTS = {
    "NVML_SUCCESS": 0,
    "NVML_ERROR_UNINITIALIZED": 1,
    "NVML_ERROR_INVALID_ARGUMENT": 2,
    "NVML_ERROR_NOT_SUPPORTED": 3,
    "NVML_ERROR_NO_PERMISSION": 4,
    "NVML_ERROR_ALREADY_INITIALIZED": 5,
    "NVML_ERROR_NOT_FOUND": 6,
    "NVML_ERROR_INSUFFICIENT_SIZE": 7,
    "NVML_ERROR_INSUFFICIENT_POWER": 8,
    "NVML_ERROR_DRIVER_NOT_LOADED": 9,
    "NVML_ERROR_TIMEOUT": 10,
    "NVML_ERROR_IRQ_ISSUE": 11,
    "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
    "NVML_ERROR_FUNCTION_NOT_FOUND": 13,
    "NVML_ERROR_CORRUPTED_INFOROM": 14,
    "NVML_ERROR_GPU_IS_LOST": 15,
    "NVML_ERROR_RESET_REQUIRED": 16,
    "NVML_ERROR_OPERATING_SYSTEM": 17,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": 18,
    "NVML_ERROR_IN_USE": 19,
    "NVML_ERROR_MEMORY": 20,
    "NVML_ERROR_NO_DATA": 21,
    "NVML_ERROR_UNKNOWN": 999,
    "NVML_FI_DEV_POWER_INSTANT": 186,
    "NVML_POWER_SCOPE_GPU": 0,
    "NVML_POWER_SCOPE_MODULE": 1,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_DEVICE_MIG_ENABLE": 1,
}
ERRORS = [name for name in CONSTANTS if name.startswith("NVML_ERROR_")]


class NVMLError(Exception):
    """As the real one: `value` is the code."""

    def __init__(self, value):
        super().__init__(value)
        self.value = value

    def __str__(self):
        return next(name for name in ERRORS if CONSTANTS[name] == self.value)


@dataclass
class Gpu:
    """Draws `watts(seconds)` and has used `joules(seconds)`. `errors`: {function: error's name}, which it raises."""

    name: str = "NVIDIA H100"
    uuid: str = "GPU-0000"
    joules: object = None
    watts: object = None
    celsius: int = 40
    joined: bool = False
    divided: bool = False
    period_s: float = 0.1
    errors: dict = field(default_factory=dict)


class FakeNvml:
    """Functions and constants of pynvml that are used. Every moment is the clock's."""

    NVMLError = NVMLError

    def __init__(self, gpus, clock):
        self.gpus, self.clock = gpus, clock
        self.errors = {}  # of no GPU
        self.power_scopes = []
        vars(self).update(CONSTANTS)

    def _of(self, handle, function):
        if error := {**self.errors, **(handle.errors if handle else {})}.get(function):
            raise NVMLError(CONSTANTS[error])
        return handle

    def nvmlInit(self):
        self._of(None, "nvmlInit")

    def nvmlDeviceGetCount(self):
        self._of(None, "nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._of(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetName(self, handle):
        return self._of(handle, "nvmlDeviceGetName").name

    def nvmlDeviceGetUUID(self, handle):
        return self._of(handle, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetMigMode(self, device):
        return [int(self._of(device, "nvmlDeviceGetMigMode").divided), 0]

    def nvmlDeviceGetC2cModeInfoV(self, handle):
        return SimpleNamespace(isC2cEnabled=int(self._of(handle, "nvmlDeviceGetC2cModeInfoV").joined))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        gpu = self._of(handle, "nvmlDeviceGetTotalEnergyConsumption")
        return int(gpu.joules((self.clock.now() * (1 + 1e-9)) // gpu.period_s * gpu.period_s) * 1e3)

    def nvmlDeviceGetPowerUsage(self, handle):
        return int(self._of(handle, "nvmlDeviceGetPowerUsage").watts(self.clock.now()) * 1e3)

    def nvmlDeviceGetFieldValues(self, handle, fieldIds):
        [(what, scope)] = fieldIds
        assert what == self.NVML_FI_DEV_POWER_INSTANT
        self.power_scopes.append(scope)
        missing = "field" in handle.errors
        milliwatts = 0 if missing else int(self._of(handle, "nvmlDeviceGetFieldValues").watts(self.clock.now()) * 1e3)
        return [
            SimpleNamespace(
                nvmlReturn=CONSTANTS[handle.errors["field"]] if missing else 0, value=SimpleNamespace(uiVal=milliwatts)
            )
        ]

    def nvmlDeviceGetTemperatureV(self, handle, sensor):
        return self._of(handle, "nvmlDeviceGetTemperatureV").celsius

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._of(handle, "nvmlDeviceGetTemperature").celsius


def h100(index=0, **options):
    """100 W more for each index."""
    watts = 100.0 * (index + 1)
    return Gpu(
        uuid=f"GPU-{index}{index}-abcd", joules=lambda s: watts * s, watts=lambda s: watts, celsius=40 + index, **options
    )


def meter_of(clock, devices=None):
    return EnergyMeter(sources=[Nvml(devices)], clock=clock)
