"""Random numbers of their own for everything that trains in turns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


class Randomness:
    """The state of the global generators: torch's of the CPU and of one device, Python's, and numpy's.

    Attributes:
        state: as they will be when it is next in use; plain values and tensors, for `torch.save`.
    """

    def __init__(self, seed: int, device: torch.device = CPU) -> None:
        self._device = device
        outside = self._now()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  a user's model may use the global one
        self.state = self._now()
        self._set(outside)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The global generators go on from this state; afterwards they are as before."""
        outside = self._now()
        self._set(self.state)
        try:
            yield
        finally:
            self.state = self._now()
            self._set(outside)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Afterwards the global generators are as before."""
        outside = self._now()
        try:
            yield
        finally:
            self._set(outside)

    def _now(self) -> dict[str, Any]:
        return {
            "torch": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
        }

    def _set(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        if state["device"] is not None:
            torch.cuda.set_rng_state(state["device"], self._device)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
