"""`SparseWeight`: a 1-D `weight`, its pattern in buffers, and the operands derived from them, kept consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Layout, Pattern, Product, Rule, Watch, layout_named, prepared
from sparse_ext.ops.dense_grad import new_handle

from .checkpoint import check_whole, fitted

# Not pickled or copied: these belong to one layer in one process, and a copy makes its own.
_TRANSIENT = ("_kind", "_pattern", "_operands", "_rule", "_seen", "_rng", "_handle", "_token", "_watch")


class SparseWeight(nn.Module):
    """A weight, packed or dense, with its pattern; see `SparseLayer`.

    The buffers are the source of truth. `_pattern`, `_rule` and `_operands` are derived from them: `_bind` derives them again
    after a buffer was replaced, `sync` after one was written in place.
    """

    _version = 2  # of the state dict's entries; version 1 held `pruning` instead of `rule` for "2:4"

    weight: nn.Parameter
    bias: nn.Parameter | None
    layout: str
    product: Product
    _initial_nnz: int
    _names: tuple[str, ...]  # of the buffers

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def pattern(self) -> Pattern:
        """The positions that products use. Shares its tensors with this layer's buffers."""
        return self._pattern

    @property
    def chosen_by(self) -> Rule | None:
        """The rule that chose these positions of a dense weight; None: the weight is packed."""
        return self._rule

    @property
    def capacity(self) -> int:
        """The length of `weight`, gradients and optimizer state."""
        return self.weight.shape[0]

    @property
    def nnz(self) -> int:
        """Number of positions that products use. Synchronises on CUDA."""
        return self._initial_nnz if self.weight.is_meta else self._pattern.nnz

    @property
    def density(self) -> float:
        """nnz / (rows * cols). Synchronises on CUDA."""
        return self.nnz / max(1, self.product.rows * self.product.cols)

    def mask(self) -> torch.Tensor:
        """bool, of the dense layer's weight shape: True at the positions that products use."""
        return self._pattern.mask().view(self.product.weight_shape)

    @torch.no_grad()
    def dense_weight(self) -> torch.Tensor:
        """The matrix that products multiply by, as a detached copy of the dense layer's weight shape."""
        return self._kind.matrix(self.weight.detach(), self._pattern, self._rule).view(self.product.weight_shape)

    def slots(self) -> torch.Tensor:
        """int64 [capacity]: the position r * cols + c of every element of `weight`, -1 where it is unused."""
        if self._rule is None:
            return self._pattern.positions()
        return torch.arange(self.capacity, device=self.weight.device)

    # ---- in step with the buffers ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Initialises the attributes that are neither pickled nor copied."""
        self._kind: type[Layout] = layout_named(self.layout)
        self._handle = new_handle()
        self._token: torch.Tensor | None = None
        self._watch: Watch | None = None
        self._rng: torch.Tensor | None = None

    def _first_rule(self, dense_weight: bool) -> Rule | None:
        return Rule(layout_named(self.layout).pattern.RULES[0]) if dense_weight else None

    def _register(self, pattern: Pattern, rule: Rule | None) -> None:
        """Replaces the layer's buffers by this pattern's tensors and this rule."""
        for name in (*getattr(self, "_names", ()), "_no_pattern"):
            self._buffers.pop(name, None)
        buffers = dict(pattern.buffers)
        if rule is not None:
            buffers["rule"] = rule.encoded(self.weight.device)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        self._names = tuple(buffers)
        if not buffers:
            # DDP fails to broadcast buffers if there were some when it was built and there are none now.
            self.register_buffer("_no_pattern", torch.zeros(1, dtype=torch.uint8, device=self.weight.device), persistent=False)
        self._bind()

    def _stored(self) -> dict[str, torch.Tensor]:
        """{name: buffer} of the pattern and the rule."""
        return {name: self.get_buffer(name) for name in self._names}

    def _read(self) -> tuple[Pattern, Rule | None]:
        """The pattern and rule in the buffers; ValueError if they are not valid."""
        kind, stored = self._kind.pattern, self._stored()
        text = stored.pop("rule", None)
        pattern = kind.of_buffers(self.product.rows, self.product.cols, stored, self.weight.device)
        if self.weight.is_meta:
            return pattern, self._first_rule(text is not None)
        rule = None if text is None else Rule.decoded("", text, kind.RULES)
        pattern.check("", rule)
        return pattern, rule

    def _bind(self) -> None:
        """Derives everything else from the buffers. Must be called after a buffer was replaced.

        Buffers without a valid pattern, as after `to_empty`, get an empty one: `reset_parameters` or a checkpoint will follow.
        """
        try:
            self._pattern, self._rule = self._read()
        except ValueError:
            self._clear()
            self._pattern, self._rule = self._read()
        self._operands = prepared(self._kind, self._pattern)
        vars(self._pattern)["_operands"] = {self._kind.operands: self._operands}
        self._pattern_changed()

    def _clear(self) -> None:
        """Writes an empty pattern, and the layout's first rule, into the buffers."""
        kind, stored, product = self._kind.pattern, self._stored(), self.product
        capacity = kind.of_buffers(product.rows, product.cols, stored, self.weight.device).capacity
        empty = dict(kind.empty(product.rows, product.cols, capacity, self.weight.device).buffers)
        if "rule" in stored:
            empty["rule"] = Rule(kind.RULES[0]).encoded(self.weight.device)
        for name, tensor in empty.items():
            stored[name].copy_(tensor)

    def _pattern_changed(self) -> None:
        self._look()
        if self._watch is not None and self._watch.sink is not None:
            self._watch.sink.pattern_changed_()

    def _look(self) -> None:
        """Remembers the buffers' version counters, by which `sync` recognises later in-place writes."""
        self._seen = tuple((tensor, tensor._version) for tensor in self._stored().values())

    def sync(self) -> None:
        """Updates what is derived, if DDP or a checkpoint wrote the buffers in place; ValueError if they are not valid."""
        # DDP broadcasts before every forward, nearly always the same pattern: comparing costs less than preparing.
        if all(tensor._version == version for tensor, version in self._seen):
            return
        pattern, rule = self._pattern, self._rule
        if rule is not None:
            rule = Rule.decoded("", self.get_buffer("rule"), pattern.RULES)
        if rule != self._rule or not self._kind.is_prepared(self._operands, pattern):
            pattern.check("", rule)
            self._rule = rule
            self._kind.prepare_(self._operands, pattern)
            self._pattern_changed()
        self._look()

    @torch.no_grad()
    def write_pattern_(self, pattern: Pattern, rule: Rule | None = None) -> None:
        """Writes a pattern of the same shape and capacity into the buffers, in place. The caller moves the values.

        Args:
            rule: the new rule of a dense weight; None: the present one stays.
        """
        for name, tensor in pattern.buffers.items():
            self.get_buffer(name).copy_(tensor)
        if rule is not None and rule != self._rule:
            self.get_buffer("rule").copy_(rule.encoded(self.weight.device))
            self._rule = rule
        self._kind.prepare_(self._operands, self._pattern)
        self._pattern_changed()

    def _chosen(self, dense: torch.Tensor, count: int, name: str | None = None) -> tuple[Pattern, Rule | None]:
        """The pattern that a rule (by name; None: the present one) chooses of a dense matrix; without rules, by magnitude."""
        name = name or (self._rule.name if self._rule is not None else None)
        # Kernels of every device take float32 and float64, and these hold every value exactly.
        wide = dense if dense.dtype == torch.float64 else dense.float()
        pattern = self._pattern.select(wide, count, capacity=self._pattern.capacity, rule=name or "largest")
        return pattern, None if name is None else pattern.rule_for(wide, name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SparseWeight:
        super()._apply(fn, recurse)
        self._rng, self._token = (None if tensor is None else fn(tensor) for tensor in (self._rng, self._token))
        self._bind()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()
        self._bind()

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
            state_dict, kind = fitted(state_dict, prefix, self)
            check_whole(state_dict, prefix, self, kind)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        if kind is not self._kind:
            rows, cols, device = self.product.rows, self.product.cols, self.weight.device
            stored = {name: state_dict[prefix + name] for name in kind.pattern.BUFFERS}
            capacity = kind.pattern.of_buffers(rows, cols, stored, device).capacity
            self.layout, self._kind = kind.name, kind
            self._register(kind.pattern.empty(rows, cols, capacity, device), self._first_rule(bool(kind.pattern.RULES)))
        before = self._stored()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if all(tensor is before[name] for name, tensor in self._stored().items()):
            self.sync()
        else:  # assign=True put other tensors in their place
            self._bind()
