"""What every sparse layer is: a 1-D `weight` of fixed length, a pattern in two buffers, and the care for both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Candidates, Pattern, check_pattern, layout_named, observe_dense_grad

from .growth import Scores

DEFAULT_SPARSITY = 0.9


def check_sparsity(sparsity: float) -> float:
    """The sparsity as a float; ValueError outside [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"expected sparsity in [0, 1), got {sparsity}")
    return float(sparsity)


def largest(dense: torch.Tensor, count: int) -> torch.Tensor:
    """Boolean mask of the `count` largest magnitudes of a matrix; ties go to the lower linear index."""
    order = torch.argsort(dense.detach().reshape(-1).abs(), descending=True, stable=True)
    mask = torch.zeros(dense.numel(), dtype=torch.bool, device=dense.device)
    mask[order[:count]] = True
    return mask.view(dense.shape)


class SparseLayer(nn.Module):
    """A sparse matrix [rows, cols] as parameters and buffers; subclasses say what it multiplies.

    `weight` [capacity] is an ordinary Parameter: entries behind nnz are 0 and stay 0, and its shape never changes through
    topology updates, so optimizers, AMP, DDP, FSDP2, CUDA graphs and checkpoints treat it as any other. `row_ptr` (int32
    [rows + 1]) and `col_idx` (int32 [capacity]) are persistent buffers; all else of the pattern is derived from them.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    row_ptr: torch.Tensor
    col_idx: torch.Tensor
    _seen: tuple[int, int]

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
        sparsity = DEFAULT_SPARSITY if sparsity is None else check_sparsity(sparsity)
        layout_named(layout)
        self.layout = layout
        self._shape = (rows, cols)
        self._initial_nnz = round((1.0 - sparsity) * rows * cols)
        fits = capacity is None or 0.0 <= capacity <= 1.0  # not so for NaN
        room = self._initial_nnz if capacity is None or not fits else round(capacity * rows * cols)
        if not fits or room < self._initial_nnz:
            raise ValueError(f"expected capacity (a density) in [{1.0 - sparsity:.6g}, 1], got {capacity}")
        self.weight = nn.Parameter(torch.zeros(room, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)) if bias else None
        self.register_buffer("row_ptr", torch.zeros(rows + 1, dtype=torch.int32, device=device))
        self.register_buffer("col_idx", torch.zeros(room, dtype=torch.int32, device=device))
        self._growth: Scores | None = None
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
        return self.col_idx.shape[0]

    @property
    def nnz(self) -> int:
        """Entries in use (reads one element: synchronises on CUDA)."""
        return self._initial_nnz if self.row_ptr.is_meta else self._pattern.nnz

    @property
    def density(self) -> float:
        """nnz over the number of positions."""
        return self.nnz / max(1, math.prod(self._shape))

    def matrix_mask(self) -> torch.Tensor:
        """Boolean [rows, cols], True at the non-zeros."""
        return self._pattern.mask()

    @torch.no_grad()
    def matrix(self) -> torch.Tensor:
        """A detached dense copy, [rows, cols]."""
        return layout_named(self.layout).unpack(self.weight.detach(), self._pattern)

    # ---- writing ------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Points `pattern` at the present buffers; whatever replaces a buffer calls this.

        Buffers that hold no pattern, as after `to_empty`, become the empty one: `reset_parameters` or a checkpoint follows.
        """
        try:
            self._pattern = Pattern.around(self.row_ptr, self.col_idx, self._shape[1])
        except ValueError:
            self.row_ptr.zero_()
            self.col_idx.zero_()
            self._pattern = Pattern.around(self.row_ptr, self.col_idx, self._shape[1])
        self._pattern_changed()

    def catch_up(self) -> None:
        """Derives anew if someone wrote another pattern into the buffers (DDP's broadcast, an average of models)."""
        # DDP broadcasts before every forward, nearly always what is there: comparing costs less than deriving.
        if self._seen != (now := self._pattern.versions()):
            if self._pattern.catch_up_():
                self._pattern_changed()
            self._seen = now

    def write_pattern_(self, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> None:
        """Takes over another pattern of the same shape, in place; the caller moves the values."""
        self._pattern.write_(row_ptr, col_idx)
        self._pattern_changed()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SparseLayer:
        super()._apply(fn, recurse)
        self._refresh()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_pattern", "_growth", "_seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._growth, self._uses = None, 0
        self._refresh()

    @torch.no_grad()
    def set_matrix_(self, dense: torch.Tensor, mask: torch.Tensor) -> None:
        """Takes over the dense values [rows, cols] at the mask, which must fit the capacity."""
        for name, given in (("matrix", dense), ("mask", mask)):
            if given.shape != self._shape:
                raise ValueError(f"expected a {name} of shape {self._shape}, got {tuple(given.shape)}")
        fresh = Pattern.from_mask(mask.to(self.row_ptr.device), self.capacity)
        self.write_pattern_(fresh.row_ptr, fresh.col_idx)
        self.weight.copy_(layout_named(self.layout).pack(dense.to(self.weight), self._pattern))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A new random pattern of the initial nnz and fresh values; also completes `to_empty` after `meta`.

        Values are uniform with the variance 1 / (3 fan_in) of `nn.Linear`, fan_in being the mean number of non-zeros of a
        row: outputs keep the dense layer's scale at every sparsity. The bias is `nn.Linear`'s.
        """
        if self.row_ptr.is_meta:
            return
        rows, cols = self._shape
        # The initial count, not the present one: after to_empty the buffers hold anything.
        nnz = self._initial_nnz
        seed = int(torch.randint(2**62, ()))
        fresh = Pattern.random(rows, cols, nnz, seed, self.row_ptr.device)
        self.col_idx.zero_()
        self.write_pattern_(fresh.row_ptr, torch.cat([fresh.col_idx, self.col_idx[nnz:]]))
        self.weight.zero_()
        bound = math.sqrt(rows / nnz) if nnz else 0.0
        nn.init.uniform_(self.weight[:nnz], -bound, bound)
        if self.bias is not None:
            bound = 1.0 / math.sqrt(cols) if cols else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def enlarge_(self, capacity: int) -> None:
        """Makes room for `capacity` entries, in place: the Parameter keeps its identity, new entries are 0."""
        extra = capacity - self.capacity
        if extra <= 0:
            return
        longer = torch.cat([self.weight.data, self.weight.new_zeros(extra)])
        grad, self.weight.grad = self.weight.grad, None
        # By way of another dtype: only then does autograd forget the old length, where an old graph is still alive.
        self.weight.data = self.weight.data.to(torch.bfloat16 if self.weight.dtype != torch.bfloat16 else torch.float32)
        self.weight.data = longer
        if grad is not None:
            self.weight.grad = torch.cat([grad, grad.new_zeros(extra)])
        self.col_idx = torch.cat([self.col_idx, self.col_idx.new_zeros(extra)])
        self._refresh()

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

    def _dense_from_checkpoint(self, stored: torch.Tensor) -> torch.Tensor | None:
        """The stored dense weight as [rows, cols]; None if it is not one."""
        return stored if stored.dim() == 2 else None

    def _packed(self, dense: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
        """A dense weight's largest magnitudes, as many as the layer has entries, as its entries of a state dict."""
        if dense.shape != self._shape:
            raise ValueError(f"{prefix}weight: expected a dense weight of shape {self._shape}, got {tuple(dense.shape)}")
        pattern = Pattern.from_mask(largest(dense, self.nnz or self._initial_nnz), self.capacity)
        # By way of a dtype that every device's kernels have and that holds every value of the checkpoint's.
        wide = dense if dense.dtype == torch.float64 else dense.float()
        packed = layout_named(self.layout).pack(wide, pattern).to(dense.dtype)
        return {prefix + "weight": packed, prefix + "row_ptr": pattern.row_ptr, prefix + "col_idx": pattern.col_idx}

    def _converted(self, state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
        """The state dict with this layer's entries as the layer stores them; ValueError if they cannot be."""
        weight = state_dict.get(prefix + "weight")
        dense = None if weight is None else self._dense_from_checkpoint(weight)
        if dense is not None:
            return {**state_dict, **self._packed(dense, prefix)}
        row_ptr, col_idx = state_dict.get(prefix + "row_ptr"), state_dict.get(prefix + "col_idx")
        if row_ptr is None or col_idx is None:
            return state_dict  # missing keys: the caller says so
        for name, index in (("row_ptr", row_ptr), ("col_idx", col_idx)):
            if index.is_floating_point():
                raise ValueError(f"{prefix}{name}: expected dtype torch.int32, got {index.dtype}")
        check_pattern(prefix + "pattern", row_ptr, col_idx, *self._shape)
        if weight is not None and weight.shape != col_idx.shape:
            raise ValueError(f"{prefix}weight: expected {col_idx.numel()} values (as col_idx), got {tuple(weight.shape)}")
        if (nnz := int(row_ptr[-1])) > self.capacity:
            raise ValueError(f"{prefix}weight: expected at most {self.capacity} entries (the layer's capacity), got {nnz}")
        state_dict = {**state_dict, prefix + "row_ptr": row_ptr.int()}
        for name, tensor in (("weight", weight), ("col_idx", col_idx.int())):
            if tensor is None:
                continue
            fitted = tensor.new_zeros(self.capacity)
            fitted[:nnz] = tensor[:nnz]
            state_dict[prefix + name] = fitted
        return state_dict

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
        try:
            state_dict = self._converted(state_dict, prefix)
        except ValueError as error:  # nothing has been touched yet
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if self.row_ptr is self._pattern.row_ptr and self.col_idx is self._pattern.col_idx:
            self.catch_up()
        else:  # assign=True put other tensors in their place
            self._refresh()
