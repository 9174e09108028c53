"""The way into `_C`: which module serves a device, and the checks every pointer passes before it leaves Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch  # before _C: both share torch's libgomp

from sparse_ext import _C

# The order of the enum Dtype in csrc/bindings.cpp.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# Index tensors that may be 16-bit, where the matrix is narrow enough.
IDS = ("col_idx", "row_idx")

# Bytes of the type that sums are kept in.
ACC_BYTES = {torch.float32: 4, torch.float64: 8, torch.bfloat16: 4, torch.float16: 4}

# Workspaces are 64-byte aligned, and vector loads need 16 bytes.
ALIGNMENT = 16


@dataclass(frozen=True)
class Backend:
    """The launchers for one device type.

    Attributes:
        module: the submodule of `_C` that holds them.
        where: tensor -> the launchers' last two arguments (device index; thread count or stream).
        dtypes: what its kernels accept.
    """

    module: ModuleType
    where: Callable[[torch.Tensor], tuple[int, int]]
    dtypes: frozenset[torch.dtype]


def _threads(tensor: torch.Tensor) -> tuple[int, int]:
    return 0, torch.get_num_threads()


def _stream(tensor: torch.Tensor) -> tuple[int, int]:
    index = tensor.get_device()
    return index, torch._C._cuda_getCurrentRawStream(index)


_CPU_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
BACKENDS = {"cpu": Backend(_C.cpu, _threads, _CPU_DTYPES)}
if hasattr(_C, "cuda"):
    BACKENDS["cuda"] = Backend(_C.cuda, _stream, frozenset(DTYPES))


def backend_of(op: str, tensor: torch.Tensor) -> Backend:
    """The launchers for the tensor's device; RuntimeError where this build has none."""
    backend = BACKENDS.get("cpu" if tensor.is_cpu else tensor.device.type)
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


def check_values(op: str, name: str, like: torch.Tensor, **others: torch.Tensor | None) -> None:
    """All of the dtype and on the device of `like`; TypeError / ValueError otherwise."""
    dtype, device = like.dtype, like.device
    for other, tensor in others.items():
        if tensor is None:
            continue
        if tensor.dtype is not dtype:
            raise TypeError(f"{op}: expected {other} of dtype {dtype} (as {name}), got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{op}: expected {other} on {device} (as {name}), got {tensor.device}")


def check_index(op: str, device: torch.device, **indices: torch.Tensor) -> None:
    """1-D int32 (or uint16, for column and row ids) on the given device."""
    for name, index in indices.items():
        dtype = index.dtype
        if dtype is not torch.int32 and (dtype is not torch.uint16 or name not in IDS):
            allowed = "torch.int32 or torch.uint16" if name in IDS else "torch.int32"
            raise TypeError(f"{op}: expected {name} of dtype {allowed}, got {dtype}")
        if index.dim() != 1:
            raise ValueError(f"{op}: expected {name} with 1 dimension, got shape {tuple(index.shape)}")
        if index.device != device:
            raise ValueError(f"{op}: expected {name} on {device} (as the values), got {index.device}")


def ready(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as kernels need it: contiguous and aligned; itself where it already is."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def workspace(like: torch.Tensor, size: int) -> torch.Tensor | None:
    """`size` uninitialised bytes on the tensor's device, from torch's allocator (64-byte aligned); None for 0."""
    return torch.empty(size, dtype=torch.uint8, device=like.device) if size else None


def address(tensor: torch.Tensor | None) -> int:
    """The pointer, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
