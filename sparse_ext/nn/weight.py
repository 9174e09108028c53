"""`SparseWeight`: a 1-D `weight` and its pattern: what they are, and how they are chosen and loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Pattern, Rule, layout_named

from .bound import BoundWeight
from .checkpoint import check_version, fitted, whole

# Not pickled or copied: these belong to one layer in one process, and a copy makes its own.
_TRANSIENT = ("_kind", "_home", "_guest", "_active", "_watched", "_rng", "_handle", "_mark", "_token", "_watch", "_trains")


class SparseWeight(BoundWeight):
    """A weight, packed or dense, with its pattern; see `SparseLayer`."""

    _version = 2  # of the state dict's entries; version 1 held `pruning` instead of `rule` for "2:4"

    bias: nn.Parameter | None
    layout_reason: str  # why it has this layout
    _initial_nnz: int
    _target_nnz: int | None = None  # what it was made for, if it begins with another number

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
        stored = self._stored()
        if not self._names and self.weight.device != device:
            self._register(*self._read(stored))
        elif self.weight.is_meta or any(tensor is not before[name] for name, tensor in stored.items()):
            self._bind()  # assign=True put other tensors in their place
        else:
            self.sync()
