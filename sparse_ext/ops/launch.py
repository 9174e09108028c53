"""The way into `_C`: which module serves a device, and the checks every pointer passes before it leaves Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch  # before _C: both share torch's libgomp

from sparse_ext import _C

# The order of the enum Dtype in csrc/bindings.cpp.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
INDEX_DTYPES = (torch.int32, torch.uint16)

# Workspaces are 64-byte aligned, and vector loads need 16 bytes.
ALIGNMENT = 16


@dataclass(frozen=True)
class Backend:
    """The launchers for one device type.

    Attributes:
        module: the submodule of `_C` that holds them.
        where: device -> the launchers' last two arguments (device index; thread count or stream).
        dtypes: what its kernels accept.
    """

    module: ModuleType
    where: Callable[[torch.device], tuple[int, int]]
    dtypes: frozenset[torch.dtype]


def _threads(device: torch.device) -> tuple[int, int]:
    return 0, torch.get_num_threads()


def _stream(device: torch.device) -> tuple[int, int]:
    return device.index, torch._C._cuda_getCurrentRawStream(device.index)


_CPU_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
BACKENDS = {"cpu": Backend(_C.cpu, _threads, _CPU_DTYPES)}
if hasattr(_C, "cuda"):
    BACKENDS["cuda"] = Backend(_C.cuda, _stream, frozenset(DTYPES))


def backend_of(op: str, tensor: torch.Tensor) -> Backend:
    """The launchers for the tensor's device; RuntimeError where this build has none."""
    backend = BACKENDS.get(tensor.device.type)
    if backend is None:
        built = " and ".join(BACKENDS)
        raise RuntimeError(f"{op}: this build of sparse_ext has kernels for {built}, got a tensor on {tensor.device}")
    return backend


def check_dtype(op: str, backend: Backend, name: str, tensor: torch.Tensor) -> int:
    """The kernels' code of the tensor's dtype; TypeError where they have none."""
    if tensor.dtype not in backend.dtypes:
        allowed = ", ".join(sorted(str(d).removeprefix("torch.") for d in backend.dtypes))
        raise TypeError(f"{op}: expected {name} of dtype {allowed} on {tensor.device.type}, got {tensor.dtype}")
    return DTYPES[tensor.dtype]


def check_like(op: str, first: tuple[str, torch.Tensor], **others: torch.Tensor | None) -> None:
    """All of one dtype and on one device, as the first; TypeError / ValueError otherwise."""
    name, like = first
    for other_name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.dtype != like.dtype:
            raise TypeError(f"{op}: expected {other_name} of dtype {like.dtype} (as {name}), got {tensor.dtype}")
        if tensor.device != like.device:
            raise ValueError(f"{op}: expected {other_name} on {like.device} (as {name}), got {tensor.device}")


def check_index(op: str, device: torch.device, **indices: torch.Tensor) -> None:
    """1-D int32 (or uint16, for column and row ids) on the given device."""
    for name, index in indices.items():
        allowed = (torch.int32,) if name.endswith("_ptr") or name == "slot" else INDEX_DTYPES
        if index.dtype not in allowed:
            raise TypeError(f"{op}: expected {name} of dtype {' or '.join(map(str, allowed))}, got {index.dtype}")
        if index.dim() != 1:
            raise ValueError(f"{op}: expected {name} with 1 dimension, got shape {tuple(index.shape)}")
        if index.device != device:
            raise ValueError(f"{op}: expected {name} on {device} (as the values), got {index.device}")


def ready(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as kernels need it: contiguous and aligned; itself where it already is."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def workspace(like: torch.Tensor, size: int) -> torch.Tensor:
    """`size` uninitialised bytes on the tensor's device, from torch's allocator (64-byte aligned)."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)
