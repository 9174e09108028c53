"""`Pattern`: where a layer's stored weights are, as one value. Each layout names the class of its patterns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

Traits = tuple[Any, ...]


class Pattern(ABC):
    """The positions of a matrix's stored weights and everything derived from them: a view of its layer's tensors.

    All tensors are preallocated and rewritten in place, so addresses and shapes survive every change: CUDA graphs and compiled
    code stay valid. What is derived is a copy, so that whoever writes the stored tensors (DDP broadcasts them before every
    forward) never touches what a backward pass still needs.

    Attributes:
        STORED: names of the stored tensors, which a layer keeps as persistent buffers. SPARSITY: the default of its layers.
        PRODUCT: what error messages call its product. ANY_DENSITY: whether a layer may have any.
        STREAMS: whether growth can choose from candidates; otherwise it needs the whole dense gradient.
        rows, cols: the matrix's shape.
        master: whether the weight holds every position, dense, and products take the pattern's part of it.
        draw: int64 [2], key and count of the random numbers that sample the output gradient; None: it is not sampled.
    """

    STORED: ClassVar[tuple[str, ...]]
    PRODUCT: ClassVar[str]
    SPARSITY: ClassVar[float]
    ANY_DENSITY: ClassVar[bool] = False
    STREAMS: ClassVar[bool] = False
    rows: int
    cols: int
    master: bool = False
    draw: torch.Tensor | None = None

    # ---- of a layer that is being made ----------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def sizes(rows: int, cols: int, sparsity: float, capacity: float | None) -> tuple[int, int]:
        """nnz, and the weight's length, of a layer with these densities; ValueError if there is no such layer."""

    @staticmethod
    def obstacle(rows: int, cols: int) -> str | None:
        """Why no layer of this shape can have such a pattern; None: it can."""
        return None

    @staticmethod
    @abstractmethod
    def blank(rows: int, cols: int, room: int, device: torch.device | str | None) -> tuple[torch.Tensor, ...]:
        """Stored tensors for a weight of length `room` that hold no choice yet."""

    @classmethod
    @abstractmethod
    def around(cls, rows: int, cols: int, room: int, *stored: torch.Tensor) -> Pattern:
        """The pattern that these tensors hold, after reading every index; allocates what is derived. ValueError: none."""

    @classmethod
    @abstractmethod
    def from_mask(cls, mask: torch.Tensor, capacity: int | None = None) -> Pattern:
        """The pattern of a boolean mask [rows, cols], of a weight of length `capacity` (None: no longer than needed)."""

    @abstractmethod
    def largest(self, dense: torch.Tensor, nnz: int) -> Pattern:
        """Another one like this: that of the largest magnitudes of a matrix; ties go to the lower linear index."""

    @classmethod
    @abstractmethod
    def random(
        cls, rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu", capacity: int | None = None
    ) -> Pattern:
        """Drawn without replacement from the Philox stream `seed`, the same on every device."""

    # ---- as stored, and as products take it -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def stored(self) -> tuple[torch.Tensor, ...]:
        """The stored tensors, in the order of STORED."""

    @property
    @abstractmethod
    def derived(self) -> tuple[torch.Tensor, ...]:
        """What kernels read."""

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """Numbers and names that, beside `derived` and `draw`, products need."""

    @classmethod
    @abstractmethod
    def of_derived(cls, traits: Traits, draw: torch.Tensor | None, *derived: torch.Tensor) -> Pattern:
        """As much of a pattern as a layout's products need."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of them."""
        return *self.stored, *self.derived

    def write_(self, *stored: torch.Tensor) -> None:
        """Takes over another pattern of the same shape, in place."""
        for tensor, value in zip(self.stored, stored, strict=True):
            tensor.copy_(value)
        self.derive_()

    @abstractmethod
    def derive_(self) -> None:
        """Recomputes, in place, everything derived from what is stored."""

    def versions(self) -> tuple[int, ...]:
        """How often what is stored was written in place, as autograd counts."""
        return tuple(tensor._version for tensor in self.stored)

    @abstractmethod
    def catch_up_(self) -> bool:
        """`derive_`, unless what is stored is still what was derived from; whether it was needed."""

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def capacity(self) -> int:
        """The weight's length."""

    @property
    @abstractmethod
    def nnz(self) -> int:
        """Number of positions in use. May read one element: synchronises on CUDA."""

    @abstractmethod
    def mask(self) -> torch.Tensor:
        """Boolean [rows, cols], True at the positions in use."""

    @abstractmethod
    def bits(self) -> torch.Tensor:
        """uint8: a bit for every position in use; those of two patterns of one shape and class have the same places."""

    @abstractmethod
    def identity(self) -> tuple[torch.Tensor, ...]:
        """Tensors that are equal where patterns are."""

    # ---- what follows a change -----------------------------------------------------------------------------------------

    @abstractmethod
    def entries(self, weight: torch.Tensor, nnz: int) -> torch.Tensor:
        """The part of a weight, or of what belongs to it, that a layer with nnz positions uses."""

    @abstractmethod
    def clear_unused_(self, weight: torch.Tensor) -> None:
        """Sets to 0 what belongs to no position."""

    @abstractmethod
    def regrown(
        self, weight: torch.Tensor, score: Any, stream: int, drop: int, grow: int
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The stored tensors after dropping the smallest magnitudes and growing as `score` ranks, and the slot map [capacity].

        Args:
            score: the dense gradient [rows, cols], or `Candidates` where the pattern STREAMS, or None: at random.
            stream: the random numbers' seed.
        """

    @abstractmethod
    def enlarged(self, room: int) -> tuple[torch.Tensor, ...]:
        """The stored tensors for a longer weight."""

    @abstractmethod
    def lengthened(self, values: torch.Tensor, room: int) -> torch.Tensor:
        """One number for each weight, as a longer weight has them; new ones are 0."""

    @abstractmethod
    def adopted(self, prefix: str, weight: torch.Tensor | None, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A checkpoint's entries as this layer stores them; ValueError, which names prefix, if they cannot be."""
