"""`SparseWeight`: a 1-D `weight` and the pattern beside it in buffers, kept in step with each other and what is derived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Layout, Pattern, Product, Rule, Watch, layout_named, prepared
from sparse_ext.ops.dense_grad import new_handle

from .checkpoint import fitted

# What belongs to one layer in one process; a copy makes its own.
_TRANSIENT = ("_kind", "_pattern", "_operands", "_rule", "_seen", "_rng", "_handle", "_token", "_watch")


class SparseWeight(nn.Module):
    """A weight, packed or dense, with its pattern; see `SparseLayer`.

    The buffers say what is stored. `_pattern`, `_rule` and `_operands`, which kernels read, are derived from them: by `_bind`
    when a buffer was replaced, by `sync` when one was written in place.
    """

    _version = 2  # of its part of a state dict. Version 1: "2:4" held `pruning` in place of `rule`

    weight: nn.Parameter
    bias: nn.Parameter | None
    layout: str
    product: Product
    _initial_nnz: int
    _names: tuple[str, ...]  # of the buffers

    # ---- reading --------------------------------------------------------------------------------------------------------

    @property
    def pattern(self) -> Pattern:
        """The positions that products take: a view of this layer's buffers."""
        return self._pattern

    @property
    def chosen_by(self) -> Rule | None:
        """How these positions are chosen of a dense weight; None: the weight is packed."""
        return self._rule

    @property
    def capacity(self) -> int:
        """The length of `weight`, gradients and optimizer state."""
        return self.weight.shape[0]

    @property
    def nnz(self) -> int:
        """Number of positions that products take (reads elements: synchronises on CUDA)."""
        return self._initial_nnz if self.weight.is_meta else self._pattern.nnz

    @property
    def density(self) -> float:
        """nnz over the number of positions."""
        return self.nnz / max(1, self.product.rows * self.product.cols)

    def mask(self) -> torch.Tensor:
        """Boolean, of the dense weight's shape: True at the positions that products take."""
        return self._pattern.mask().view(self.product.weight_shape)

    @torch.no_grad()
    def dense_weight(self) -> torch.Tensor:
        """A detached dense copy of what products multiply by."""
        return self._kind.matrix(self.weight.detach(), self._pattern, self._rule).view(self.product.weight_shape)

    def slots(self) -> torch.Tensor:
        """int64 [capacity]: the linear position of every element of `weight`, -1 where it is unused."""
        if self._rule is None:
            return self._pattern.positions()
        return torch.arange(self.capacity, device=self.weight.device)

    # ---- in step with the buffers ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        """What a layer has that was just made or copied."""
        self._kind: type[Layout] = layout_named(self.layout)
        self._handle = new_handle()
        self._token: torch.Tensor | None = None
        self._watch: Watch | None = None
        self._rng: torch.Tensor | None = None

    def _first_rule(self, dense_weight: bool) -> Rule | None:
        return Rule(layout_named(self.layout).pattern.RULES[0]) if dense_weight else None

    def _register(self, pattern: Pattern, rule: Rule | None) -> None:
        """Makes a pattern's tensors, and the text of the rule, the buffers of this layer."""
        for name in (*getattr(self, "_names", ()), "_no_pattern"):
            self._buffers.pop(name, None)
        buffers = dict(pattern.buffers)
        if rule is not None:
            buffers["rule"] = rule.encoded(self.weight.device)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        self._names = tuple(buffers)
        if not buffers:
            # DDP cannot broadcast a list of buffers that has become empty since it was built.
            self.register_buffer("_no_pattern", torch.zeros(1, dtype=torch.uint8, device=self.weight.device), persistent=False)
        self._bind()

    def _stored(self) -> dict[str, torch.Tensor]:
        """{name: buffer}, as they are now."""
        return {name: self.get_buffer(name) for name in self._names}

    def _read(self) -> tuple[Pattern, Rule | None]:
        """What the buffers say, checked; ValueError if that is no pattern."""
        kind, stored = self._kind.pattern, self._stored()
        text = stored.pop("rule", None)
        pattern = kind.of_buffers(self.product.rows, self.product.cols, stored, self.weight.device)
        if self.weight.is_meta:
            return pattern, self._first_rule(text is not None)
        rule = None if text is None else Rule.decoded("", text, kind.RULES)
        pattern.check("", rule)
        return pattern, rule

    def _bind(self) -> None:
        """Derives everything else from the present buffers; whatever replaces a buffer calls this.

        Buffers that hold no pattern, as after `to_empty`, become an empty one: `reset_parameters` or a checkpoint follows.
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
        """Writes an empty pattern, and the first of the rules, into the buffers."""
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
        """Remembers how often the buffers were written in place until now, as autograd counts."""
        self._seen = tuple((tensor, tensor._version) for tensor in self._stored().values())

    def sync(self) -> None:
        """Follows what others wrote into the buffers in place (DDP, a checkpoint); ValueError if that is no pattern."""
        # DDP broadcasts before every forward, nearly always what is there: comparing costs less than preparing.
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
        """Takes over another pattern of the same shape and capacity, in place; the caller moves the values.

        rule: the new one of a dense weight; None: it stays.
        """
        for name, tensor in pattern.buffers.items():
            self.get_buffer(name).copy_(tensor)
        if rule is not None and rule != self._rule:
            self.get_buffer("rule").copy_(rule.encoded(self.weight.device))
            self._rule = rule
        self._kind.prepare_(self._operands, self._pattern)
        self._pattern_changed()

    def _chosen(self, dense: torch.Tensor, count: int, name: str | None = None) -> tuple[Pattern, Rule | None]:
        """What the rule of this name (None: the present one) takes of a dense matrix; without a rule the largest magnitudes."""
        name = name or (self._rule.name if self._rule is not None else None)
        # By way of a dtype that every device's kernels have and that holds every value.
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
        """Loads a checkpoint of this layer, or of one that it can hold: see `checkpoint.fitted`."""
        try:
            state_dict, kind = fitted(state_dict, prefix, self)
        except ValueError as error:  # nothing has been touched yet
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
