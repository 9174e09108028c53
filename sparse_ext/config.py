"""What this installation is made of, and why CUDA is unavailable where it is. `python -m sparse_ext` prints it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

from .ops.boundary import launch

ISAS = ("baseline", "v3", "v4", "v4_bf16")


def _version() -> str:
    """pyproject.toml's, as installed; a source tree on the path that nobody installed has none."""
    try:
        return metadata.version("sparse_ext")
    except metadata.PackageNotFoundError:
        return f"{launch._C.version}+source"


__version__ = _version()


def _cuda_version(number: int) -> str | None:
    """13000 -> "13.0"; None for 0."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def cuda_obstacles() -> list[str]:
    """Every reason why the CUDA kernels cannot run, as sentences; empty where they can. Creates no CUDA context."""
    kernels = getattr(launch._C, "cuda", None)
    found = []
    if kernels is None:
        found.append("no CUDA in this build: nvcc was not found, or was switched off, when sparse_ext was built")
    if torch.version.cuda is None:
        found.append(f"torch {torch.__version__} is a build without CUDA")
    if kernels is None:
        return found
    driver, runtime = kernels.driver_version(), kernels.runtime_version()
    if not driver:
        found.append("no NVIDIA driver on this machine")
    elif driver // 1000 < runtime // 1000:
        found.append(
            f"the driver is too old: it supports CUDA {_cuda_version(driver)}, and this build needs CUDA "
            f"{_cuda_version(runtime)} (CUDA 13 binaries need driver >= 580)"
        )
    elif not kernels.device_count():
        found.append("the driver shows no usable device (CUDA_VISIBLE_DEVICES may hide them)")
    return found


def cuda_available() -> bool:
    """Whether the CUDA kernels can run here: in this build, with this torch, driver and device. Never raises."""
    return not cuda_obstacles()


def driver_release() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def _driver() -> str | None:
    """The driver's version and the CUDA version it supports; None without one."""
    kernels = getattr(launch._C, "cuda", None)
    supports = _cuda_version(kernels.driver_version()) if kernels else None
    known = [driver_release(), supports and f"supports CUDA {supports}"]
    return ", ".join(part for part in known if part) or None


def _isas() -> list[str]:
    """The instruction sets that this CPU and this binary have."""
    cpu = launch._C.cpu
    in_use = cpu.isa()
    try:
        return [name for name in ISAS if cpu.use_isa(name)]
    finally:
        cpu.use_isa(in_use)


def _devices() -> list[str]:
    """Names and compute capabilities of the CUDA devices, where kernels can run on them."""
    if not cuda_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{device.name} (sm_{device.major}{device.minor}, {device.total_memory >> 30} GiB)" for device in found]


def config() -> dict[str, str | None]:
    """The installation as {what: value}; None where there is none. Asks devices for their names where there are any."""
    kernels = getattr(launch._C, "cuda", None)
    return {
        "sparse_ext": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch CUDA": torch.version.cuda,
        "CPU kernels": f"{launch._C.cpu.isa()} (available: {', '.join(_isas())}), {torch.get_num_threads()} threads",
        "CUDA kernels": f"{launch._C.cuda_archs}, using {kernels.isa()}" if kernels else None,
        "CUDA runtime": _cuda_version(kernels.runtime_version()) if kernels else None,
        "driver": _driver(),
        "devices": "; ".join(_devices()) or None,
        "CUDA available": "yes" if cuda_available() else f"no: {'; '.join(cuda_obstacles())}",
    }


def show_config() -> dict[str, str | None]:
    """Prints versions, instruction set, architectures, driver and devices, and why CUDA is unavailable; returns them too."""
    shown = config()
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {'none' if value is None else value}")
    return shown
