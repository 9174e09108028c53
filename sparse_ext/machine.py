"""Where a result comes from: goes into every row and report, so that a number can be traced to machine, versions and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .config import __version__, driver_release
from .ops.boundary import launch
from .report.record import Machine


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit(folder: Path) -> str | None:
    """The commit of the git repository that the folder is in, and whether something was changed since; None: it is in none."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=folder
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def now() -> str:
    """UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe(device: str) -> dict[str, Any]:
    """The machine and versions, as one flat dictionary; None where something is unknown. The commit is this package's."""
    return {
        "time": now(),
        "commit": commit(Path(__file__).parent),
        "cpu": _cpu_model(),
        "isa": launch._C.cpu.isa(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparse_ext": __version__,
    }


def versions() -> dict[str, str | None]:
    """Of Python and packages; the commit is that of the repository in which the program runs."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "sparse_ext": __version__,
        "cuda": torch.version.cuda,
        "commit": commit(Path.cwd()),
    }


def machine(device: torch.device) -> Machine:
    """The machine as it is now, and of a GPU what NVML says of it: None where the extra `energy` is not installed."""
    here = Machine(
        device=str(device),
        devices=1,
        cpu=_cpu_model(),
        isa=launch._C.cpu.isa(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()}",
    )
    if device.type != "cuda":
        return here
    index = torch.cuda.current_device() if device.index is None else device.index
    uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
    return replace(
        here,
        device=f"cuda:{index}",
        gpu=torch.cuda.get_device_name(index),
        gpu_uuid=uuid,
        driver=driver_release(),
        power_limit_w=_power_limit_w(uuid),
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _power_limit_w(uuid: str) -> float | None:
    """That the driver enforces."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000
    except pynvml.NVMLError:
        return None
