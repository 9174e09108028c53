"""Environment variables: what they may say. A wrong value stops the import with a sentence that names the variable."""

from __future__ import annotations

import os

# name -> the allowed values; the first one counts where the variable is unset or empty.
CHOICES = {
    "SPARSE_EXT_DEBUG": ("0", "1"),  # 1: every call also reads every index and refuses one that would lead out of bounds
    "SPARSE_EXT_CUDA_ISA": ("", "sm_80", "sm_90a"),  # csrc/cuda/device/device.cu reads it: which CUDA kernels, if they can run
}


def chosen(name: str) -> str:
    """The variable's value; ValueError for one that is not allowed."""
    allowed = CHOICES[name]
    value = os.environ.get(name) or allowed[0]
    if value not in allowed:
        known = " or ".join(filter(None, allowed))
        raise ValueError(f"environment variable {name}: expected {known}, got {value!r}; or unset it")
    return value


for _name in CHOICES:
    chosen(_name)
