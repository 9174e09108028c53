"""The edges of a window: the device has to have finished what was asked of it."""

from __future__ import annotations

import sys


def synchronise() -> str | None:
    """Waits for the GPUs that this process uses through torch, if any; a sentence where it could not. Initialises nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        if torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured, where nothing runs and nothing can be waited for"
        for device in range(torch.cuda.device_count()):
            # Waiting for a device that is not in use would take memory there.
            if torch._C._cuda_hasPrimaryContext(device):
                torch.cuda.synchronize(device)
    except RuntimeError as error:
        return f"the device could not be waited for: {str(error).partition(chr(10))[0]}"
    return None
