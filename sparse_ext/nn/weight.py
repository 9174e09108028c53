"""`SparseWeight`: a 1-D `weight` and its pattern: what they are, and how they are chosen and loaded."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparse_ext.ops import Choice, Pattern, Rule, layout_named, slot_map
from sparse_ext.ops.pattern import taken

from .bound import BoundWeight
from .checkpoint import check_version, fitted, storage_of, whole

# Not pickled or copied: these belong to one layer in one process, and a copy makes its own.
_TRANSIENT = ("_kind", "_home", "_guest", "_active", "_watched", "_rng", "_handle", "_mark", "_token", "_watch", "_trains")


class SparseWeight(BoundWeight):
    """A weight, packed or dense, with its pattern; see `SparseLayer`."""

    _version = 2  # of the state dict's entries; version 1 held `pruning` instead of `rule` for "2:4"

    bias: nn.Parameter | None
    layout_reason: str  # why it has this layout
    _asked: str | None = None  # the layout that it was asked for; None: the one that it has
    _initial_nnz: int
    _target_nnz: int | None = None  # what it was made for, if a method may lead it from one number to another
    _slots_left: torch.Tensor | None = None  # while it loads: those of the storage that it has left for the checkpoint's

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def pattern(self) -> Pattern:
        """The positions that products use. Shares its tensors with this layer's buffers, and is as valid as what these hold."""
        return self._pattern

    @property
    def chosen_by(self) -> Rule | None:
        """The rule that chose these positions of a dense weight; None: the weight is packed."""
        return self._followed().rule

    @property
    def capacity(self) -> int:
        """The length of `weight`, gradients and optimizer state."""
        return self.weight.shape[0]

    @property
    def nnz(self) -> int:
        """Number of positions that products use. Synchronises on CUDA."""
        return self._initial_nnz if self.weight.is_meta else self._pattern.nnz

    @property
    def target_nnz(self) -> int:
        """The number of positions that it was made for: a method may have it begin with more, and end with so many."""
        return self._initial_nnz if self._target_nnz is None else self._target_nnz

    @property
    def density(self) -> float:
        """nnz / (rows * cols). Synchronises on CUDA."""
        return self.nnz / max(1, self.product.rows * self.product.cols)

    @property
    def asked(self) -> str:
        """The layout that it was asked for. That one may have chosen another to store it."""
        return self._asked or self.layout

    def storage_for(self, nnz: int) -> Choice:
        """(chosen, reason): the layout that should store so many positions of this weight."""
        return layout_named(self.asked).storage(self.product, nnz, self.weight.dtype, self.weight.device)

    def mask(self) -> torch.Tensor:
        """bool, of the dense layer's weight shape: True at the positions that products use."""
        self._followed()
        return self._pattern.mask().view(self.product.weight_shape)

    @torch.no_grad()
    def dense_weight(self) -> torch.Tensor:
        """The matrix that products multiply by, as a detached copy of the dense layer's weight shape."""
        rule = self._followed().rule
        return self._kind.matrix(self.weight.detach(), self._pattern, rule).view(self.product.weight_shape)

    def slots(self) -> torch.Tensor:
        """int64 [capacity]: the position r * cols + c of every element of `weight`, -1 where it is unused."""
        if self._followed().rule is None:
            return self._pattern.positions()
        return torch.arange(self.capacity, device=self.weight.device)

    # ---- copies ----------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        self._check_buffers()
        return {key: value for key, value in self.__dict__.items() if key not in _TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"layout_reason": "as asked for", **state})
        self._start()
        self._bind()

    # ---- another storage -----------------------------------------------------------------------------------------------

    @property
    def keeps_length(self) -> bool:
        """Whether the weight must keep its length while it trains: where several processes do, DDP's buckets have it."""
        return dist.is_available() and dist.is_initialized()

    def adopt_(self, layout: str, pattern: Pattern, reason: str) -> torch.Tensor:
        """Stores the weight packed in this layout, with a copy of this pattern. Returns the slot map."""
        if self.weight.is_meta:
            buffers = pattern.empty(pattern.rows, pattern.cols, pattern.capacity, self.weight.device).buffers
        else:
            buffers = {name: tensor.to(self.weight.device, copy=True) for name, tensor in pattern.buffers.items()}
        source = self._move_to(layout, type(pattern).of_buffers(pattern.rows, pattern.cols, buffers, self.weight.device), None)
        self.layout_reason = reason
        return source

    @torch.no_grad()
    def _move_to(self, layout: str, pattern: Pattern, rule: Rule | None) -> torch.Tensor:
        """Moves weight and gradient to this layout, pattern and rule; the Parameter object stays. Returns the slot map."""
        length = pattern.capacity if rule is None else self.product.rows * self.product.cols
        if self.weight.is_meta:
            source = torch.empty(length, dtype=torch.int64, device="meta")
        else:
            new = pattern.positions() if rule is None else torch.arange(length, device=self.weight.device)
            source = slot_map(self.slots(), new)
        values, grad = taken(self.weight.data, source), self.weight.grad
        if length == self.capacity:  # in place: DDP's hooks refer to the present data
            self.weight.data.copy_(values)
        else:
            self.weight.grad = None
            # Via another dtype: otherwise autograd still expects the old length while an old graph is alive.
            self.weight.data = self.weight.data.to(torch.bfloat16 if self.weight.dtype != torch.bfloat16 else torch.float32)
            self.weight.data = values
        if grad is not None:
            self.weight.grad = taken(grad, source)
        if layout != self.layout:
            self.layout, self._kind, self.layout_reason = layout, layout_named(layout), "changed after the layer was made"
        self._rng = self._rng if self._kind.SAMPLES else None
        self._register(pattern, rule)
        return source

    # ---- choosing and loading --------------------------------------------------------------------------------------------

    def _first_rule(self, dense_weight: bool) -> Rule | None:
        return Rule(layout_named(self.layout).pattern.RULES[0]) if dense_weight else None

    def _chosen(self, dense: torch.Tensor, count: int, name: str | None = None) -> tuple[Pattern, Rule | None]:
        """The pattern that a rule (by name; None: the present one) chooses of a dense matrix; without rules, by magnitude."""
        name = name or (self._rule.name if self._rule is not None else None)
        # Kernels of every device take float32 and float64, and these hold every value exactly.
        wide = dense if dense.dtype == torch.float64 else dense.float()
        pattern = self._pattern.select(wide, count, capacity=self._pattern.capacity, rule=name or "largest")
        return pattern, None if name is None else pattern.rule_for(wide, name)

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
        """Loads this layer's entries, or converts those of another layout, capacity or dense layer: `checkpoint.fitted`.

        What is wrong with one of them is found before the first is copied: a layer that refuses an entry is as it was. Of keys
        that are missing or unexpected only `load_state_dict` knows whether they are refused: afterwards, as in every module.
        """
        try:
            check_version(prefix, local_metadata, self._version)
            self._slots_left = self._take_storage_of(state_dict, prefix)
            state_dict, kind = fitted(state_dict, prefix, self)
            state_dict = whole(state_dict, prefix, self, kind)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        if kind is not self._kind:
            rows, cols, device = self.product.rows, self.product.cols, self.weight.device
            stored = {name: state_dict[prefix + name] for name in kind.pattern.BUFFERS}
            capacity = kind.pattern.of_buffers(rows, cols, stored, device).capacity
            self.layout, self._kind, self.layout_reason = kind.name, kind, "as in the checkpoint"
            self._register(kind.pattern.empty(rows, cols, capacity, device), self._first_rule(bool(kind.pattern.RULES)))
        before, device = self._stored(), self.weight.device
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self._slots_left = None
        stored = self._stored()
        if not self._names and self.weight.device != device:
            self._register(*self._read(stored))
        elif self.weight.is_meta or any(tensor is not before[name] for name, tensor in stored.items()):
            self._bind()  # assign=True put other tensors in their place
        else:
            self.sync()
        self._give_reason()

    def _give_reason(self) -> None:
        """Says, of a layer that may have been loaded with another density, why it is stored so: as after training to it."""
        if self._target_nnz is None or self._rule is not None or not layout_named(self.asked).STORAGES or self.weight.is_meta:
            return
        chosen, reason = self.storage_for(self.nnz)
        self.layout_reason = reason if chosen == self.layout else "as in the checkpoint"

    def _take_storage_of(self, state_dict: dict[str, Any], prefix: str) -> torch.Tensor | None:
        """Takes over how the entries are stored, if `storage_of` says so: then returns the slots until now."""
        stored = storage_of(state_dict, prefix, self)
        if stored is None:
            return None
        before = None if self.weight.is_meta else self.slots()
        self.adopt_(*stored, "as in the checkpoint")
        return before
