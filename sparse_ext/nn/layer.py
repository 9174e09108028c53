"""What every sparse layer is: a 1-D `weight` of fixed length, a pattern in two buffers, and the care for both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Candidates, Nm24Pattern, Pattern, layout_named, observe_dense_grad

from .checkpoint import converted
from .growth import Scores


def check_sparsity(sparsity: float) -> float:
    """The sparsity as a float; ValueError outside [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"expected sparsity in [0, 1), got {sparsity}")
    return float(sparsity)


class SparseLayer(nn.Module):
    """A sparse matrix [rows, cols] as parameters and buffers; subclasses say what it multiplies.

    `weight` [capacity] is an ordinary Parameter: what belongs to no position is 0 and stays 0, and its shape never changes
    through topology updates, so optimizers, AMP, DDP, FSDP2, CUDA graphs and checkpoints treat it as any other. What the
    layout's pattern stores are persistent buffers: of "csr" and "auto" `row_ptr` (int32 [rows + 1]) and `col_idx` (int32
    [capacity]), of "2:4" `ids` (uint8 [rows, ceil(cols / 8)]) and `pruning` (int32 [2]). All else is derived from them.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    _seen: tuple[int, ...]

    def __init__(
        self,
        rows: int,
        cols: int,
        bias: bool,
        sparsity: float | None,
        layout: str,
        capacity: float | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        kind = layout_named(layout).pattern
        self.layout = layout
        self._shape = (rows, cols)
        sparsity = kind.SPARSITY if sparsity is None else check_sparsity(sparsity)
        self._initial_nnz, room = kind.sizes(rows, cols, sparsity, capacity)
        self.weight = nn.Parameter(torch.zeros(room, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)) if bias else None
        for name, tensor in zip(kind.STORED, kind.blank(rows, cols, room, device), strict=True):
            self.register_buffer(name, tensor)
        self._growth: Scores | None = None
        self._draw: torch.Tensor | None = None
        self._uses = self._room = 0
        self._refresh()

    # ---- reading ------------------------------------------------------------------------------------------------------

    @property
    def pattern(self) -> Pattern:
        """Where the non-zeros are: a view of this layer's tensors."""
        return self._pattern

    @property
    def capacity(self) -> int:
        """Entries there is room for: the length of `weight`, gradients and optimizer state."""
        return self.weight.shape[0]

    @property
    def nnz(self) -> int:
        """Entries in use (reads one element: synchronises on CUDA)."""
        return self._initial_nnz if self.weight.is_meta else self._pattern.nnz

    @property
    def density(self) -> float:
        """nnz over the number of positions."""
        return self.nnz / max(1, math.prod(self._shape))

    def matrix_mask(self) -> torch.Tensor:
        """Boolean [rows, cols], True at the non-zeros."""
        return self._pattern.mask()

    @torch.no_grad()
    def matrix(self) -> torch.Tensor:
        """A detached dense copy, [rows, cols], of what products multiply by."""
        return layout_named(self.layout).unpack(self.weight.detach(), self._pattern)

    # ---- writing ------------------------------------------------------------------------------------------------------

    @property
    def _stored(self) -> tuple[torch.Tensor, ...]:
        """The pattern's buffers as they are now."""
        return tuple(self.get_buffer(name) for name in layout_named(self.layout).pattern.STORED)

    def _refresh(self) -> None:
        """Points `pattern` at the present buffers; whatever replaces a buffer calls this.

        Buffers that hold no pattern, as after `to_empty`, become a blank one: `reset_parameters` or a checkpoint follows.
        """
        kind, sizes, stored = layout_named(self.layout).pattern, (*self._shape, self.weight.shape[0]), self._stored
        try:
            self._pattern = kind.around(*sizes, *stored)
        except ValueError:
            for tensor, value in zip(stored, kind.blank(*sizes, self.weight.device), strict=True):
                tensor.copy_(value)
            self._pattern = kind.around(*sizes, *stored)
        self._pattern_changed()
        if self._draw is not None:
            self.sample_gradient(self._draw)

    def catch_up(self) -> None:
        """Derives anew if someone wrote another pattern into the buffers (DDP's broadcast, an average of models)."""
        # DDP broadcasts before every forward, nearly always what is there: comparing costs less than deriving.
        if self._seen != (now := self._pattern.versions()):
            if self._pattern.catch_up_():
                self._pattern_changed()
            self._seen = now

    def write_pattern_(self, *stored: torch.Tensor) -> None:
        """Takes over another pattern of the same shape, in place; the caller moves the values."""
        self._pattern.write_(*stored)
        self._pattern_changed()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SparseLayer:
        super()._apply(fn, recurse)
        self._draw = None if self._draw is None else fn(self._draw)
        self._refresh()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_pattern", "_growth", "_draw", "_seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._growth = self._draw = None
        self._uses = 0
        self._refresh()

    @torch.no_grad()
    def set_matrix_(self, dense: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Takes over the dense values [rows, cols] at the mask, which must fit the capacity; a dense master, all of them.

        mask None: the largest magnitudes, as many as a new layer has.
        """
        for name, given in (("matrix", dense), ("mask", mask)):
            if given is not None and given.shape != self._shape:
                raise ValueError(f"expected a {name} of shape {self._shape}, got {tuple(given.shape)}")
        dense = dense.to(self.weight)
        if mask is None:
            fresh = self._pattern.largest(dense, self._initial_nnz)
        else:
            mask = mask.to(dense.device)
            fresh = self._pattern.from_mask(mask, self.capacity)
            dense = dense.masked_fill(fresh.mask() & ~mask, 0)  # a pattern may have more than the mask
        self.write_pattern_(*fresh.stored)
        self.weight.copy_(layout_named(self.layout).pack(dense, self._pattern))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A new random pattern of the initial nnz and fresh values; also completes `to_empty` after `meta`.

        Values are uniform with the variance 1 / (3 fan_in) of `nn.Linear`, fan_in being the mean number of weights of a row:
        outputs keep the dense layer's scale at every sparsity. The bias is `nn.Linear`'s. A dense master's pattern is that of
        its largest values.
        """
        if self.weight.is_meta:
            return
        rows, cols = self._shape
        # The initial count, not the present one: after to_empty the buffers hold anything.
        nnz = self._initial_nnz
        seed = int(torch.randint(2**62, ()))
        if not self._pattern.master:
            fresh = self._pattern.random(rows, cols, nnz, seed, self.weight.device, self.capacity)
            self.write_pattern_(*fresh.stored)
        self.weight.zero_()
        used = rows * cols if self._pattern.master else nnz
        bound = math.sqrt(rows / used) if used else 0.0
        nn.init.uniform_(self._pattern.entries(self.weight, nnz), -bound, bound)
        self._pattern.clear_unused_(self.weight)
        if self._pattern.master:
            self.set_matrix_(self.weight.detach().view(self._shape))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(cols) if cols else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def enlarge_(self, capacity: int) -> None:
        """Makes room for `capacity` entries, in place: the Parameter keeps its identity, new entries are 0."""
        if capacity <= self.capacity:
            return
        pattern = self._pattern
        longer = pattern.lengthened(self.weight.data, capacity)
        grad, self.weight.grad = self.weight.grad, None
        # By way of another dtype: only then does autograd forget the old length, where an old graph is still alive.
        self.weight.data = self.weight.data.to(torch.bfloat16 if self.weight.dtype != torch.bfloat16 else torch.float32)
        self.weight.data = longer
        if grad is not None:
            self.weight.grad = pattern.lengthened(grad, capacity)
        for name, tensor in zip(pattern.STORED, pattern.enlarged(capacity), strict=True):
            setattr(self, name, tensor)
        self._refresh()

    # ---- a dense master: what its products take ---------------------------------------------------------------------------

    @property
    def choice(self) -> str | None:
        """What products take of a dense master, a name in PRUNINGS; None: the weight is what they take."""
        return self._pattern.choice if isinstance(self._pattern, Nm24Pattern) and self._pattern.master else None

    @torch.no_grad()
    def prune_(self, choice: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses two of four of a dense master anew, see `PRUNINGS`; how many positions are new, and how many were left."""
        counts = self._nm24("prune_").prune_(self.weight.detach(), choice)
        self._pattern_changed()
        return counts

    def sample_gradient(self, draw: torch.Tensor | None) -> None:
        """From now on backward passes sample the output gradient by these random numbers (`nm24_mvue`); None: no longer."""
        self._draw = self._nm24("sample_gradient").draw = draw

    def _nm24(self, name: str) -> Nm24Pattern:
        if not isinstance(self._pattern, Nm24Pattern):
            raise ValueError(f"{name}: expected a layer of layout '2:4', got {self.layout!r}")
        return self._pattern

    # ---- growth: what an armed step keeps of the dense weight gradient ----------------------------------------------------

    @property
    def growth(self) -> Scores | None:
        """What the armed passes have left so far (None: not armed)."""
        return self._growth

    def arm_growth(self, start: torch.Tensor | None = None, *, candidates: int | None = None) -> None:
        """From now on backward passes also compute the dense weight gradient, until `take_growth`.

        They add it to a buffer that begins with `start` [rows, cols], or goes on, or begins with 0. Given a number of
        candidates nothing dense is kept: the one pass that may then come leaves the scores that growth of so many entries can
        choose from. A change of the pattern after it disarms.
        """
        if candidates is not None:
            self._room = max(self._room, candidates)  # one length for all updates, for compiled code
            self._growth = Scores.streamed(self.weight, self._pattern, self._room)
        elif start is not None or self._growth is None or isinstance(self._growth.kept, Candidates):
            self._growth = Scores.summed(self.weight, self._shape, start)

    def take_growth(self) -> Scores | None:
        """What the armed passes have left (None: not armed); the layer forgets it."""
        growth, self._growth = self._growth, None
        return growth

    def take_uses(self) -> int:
        """How often the layer was called with gradients enabled since the last `take_uses`; 0 inside compiled code."""
        uses, self._uses = self._uses, 0
        return uses

    def _pattern_changed(self) -> None:
        self._seen = self._pattern.versions()
        if self._growth is not None and isinstance(self._growth.kept, Candidates):  # those of another pattern
            begun = self.weight.is_meta or int(self._growth.passes) > 0
            self._growth = None if begun else Scores.streamed(self.weight, self._pattern, self._room)

    def _observed(self, y: torch.Tensor, x: torch.Tensor, growth: Scores) -> torch.Tensor:
        """y, whose backward also fills what an armed layer keeps."""
        return observe_dense_grad(y, x, *growth.into) if torch.is_grad_enabled() else y

    # ---- checkpoints ------------------------------------------------------------------------------------------------------

    def _dense_from_checkpoint(self, stored: torch.Tensor | None) -> torch.Tensor | None:
        """The stored dense weight as [rows, cols]; None if it is not one."""
        return stored if stored is not None and stored.dim() == 2 else None

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads a sparse checkpoint, or a dense one (the largest magnitudes at the layer's nnz stay)."""
        dense = self._dense_from_checkpoint(state_dict.get(prefix + "weight"))
        try:
            state_dict = converted(state_dict, prefix, dense, self._pattern, self.layout, self.nnz or self._initial_nnz)
        except ValueError as error:  # nothing has been touched yet
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if all(own is seen for own, seen in zip(self._stored, self._pattern.stored, strict=True)):
            self.catch_up()
        else:  # assign=True put other tensors in their place
            self._refresh()
