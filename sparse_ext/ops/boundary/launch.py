"""The way into `_C`: which module serves a device, and the checks every pointer passes before it leaves Python."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

import torch  # before _C: both share torch's libgomp

try:
    import sparse_ext._C as _C
except ModuleNotFoundError as error:  # `from sparse_ext import _C` would speak of a circular import
    raise ModuleNotFoundError(
        f"sparse_ext is not built: expected its compiled kernels, sparse_ext._C for Python {sys.version_info[0]}."
        f"{sys.version_info[1]}, in {Path(__file__).parents[2]}, got none; run `make build` or `pip install .` in the source "
        "tree, or leave the tree to import an installed sparse_ext",
        name=error.name,
    ) from error

# The order of the enum Dtype in csrc/python/arguments.h; the first four are those of weights and activations.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
DTYPES |= {torch.bool: 4, torch.uint8: 4, torch.int32: 5}
FLOATING = frozenset(dtype for dtype in DTYPES if dtype.is_floating_point)

# Workspaces are 64-byte aligned, and vector loads need 16 bytes.
ALIGNMENT = 16

# A CPU's workspaces of so many bytes are kept, the largest one for each thread: the allocator keeps smaller ones anyway.
KEPT = (1 << 20, 128 << 20)
_kept = threading.local()


@dataclass(frozen=True)
class Backend:
    """The launchers for one device type.

    Attributes:
        module: the submodule of `_C` that holds them.
        stream: tensor -> the launchers' last argument: the number of threads, or on CUDA (device, stream).
        dtypes: what its kernels accept.
    """

    module: ModuleType
    stream: Callable[[torch.Tensor], int | tuple[int, int]]
    dtypes: frozenset[torch.dtype]


def _threads(tensor: torch.Tensor) -> int:
    return torch.get_num_threads()


def _stream(tensor: torch.Tensor) -> tuple[int, int]:
    index = tensor.get_device()
    return index, torch._C._cuda_getCurrentRawStream(index)


_CPU_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
BACKENDS = {"cpu": Backend(_C.cpu, _threads, _CPU_DTYPES)}
if hasattr(_C, "cuda"):
    BACKENDS["cuda"] = Backend(_C.cuda, _stream, FLOATING)


def backend_of(op: str, tensor: torch.Tensor) -> Backend:
    """The launchers for the tensor's device; RuntimeError where this build has none."""
    backend = BACKENDS.get("cpu" if tensor.is_cpu else tensor.device.type)
    if backend is None:
        built = " and ".join(BACKENDS)
        raise RuntimeError(f"{op}: this build of sparse_ext has kernels for {built}, got a tensor on {tensor.device}")
    return backend


def reading_waits(tensor: torch.Tensor) -> bool:
    """Whether Python would have to wait for the tensor's device to read from it."""
    return not tensor.is_cpu


def ready(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as kernels need it: contiguous and aligned; itself where it already is."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def workspace(like: torch.Tensor, size: int) -> torch.Tensor | None:
    """`size` uninitialised bytes on the tensor's device, 64-byte aligned, until the thread's next call; None for 0.

    Large ones on the CPU are reused: page faults of freshly mapped memory would cost a tenth of a training step.
    """
    if KEPT[0] <= size <= KEPT[1] and like.is_cpu:
        if not hasattr(_kept, "memory") or _kept.memory.numel() < size:
            _kept.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
        return cast(torch.Tensor, _kept.memory)[:size]
    return torch.empty(size, dtype=torch.uint8, device=like.device) if size else None
