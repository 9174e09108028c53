"""`SparseWeight`: a 1-D `weight`, its pattern in buffers, and the operands derived from them, kept consistent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Layout, Pattern, Product, Rule, Watch, lasting, layout_named, prepared
from sparse_ext.ops.boundary.launch import reading_waits
from sparse_ext.ops.dense_grad import new_handle
from sparse_ext.ops.follow import FOLLOWERS, OTHER_RULE, follow_

from .checkpoint import check_version, fitted, whole

# Not pickled or copied: these belong to one layer in one process, and a copy makes its own.
_TRANSIENT = (
    "_kind", "_pattern", "_operands", "_rule", "_seen", "_text", "_prepared_at", "_rng", "_handle", "_token", "_watch",
)  # fmt: skip


class SparseWeight(nn.Module):
    """A weight, packed or dense, with its pattern; see `SparseLayer`.

    The buffers are the source of truth. `_pattern`, `_rule` and `_operands` are derived from them: `_bind` derives them again
    after a buffer was replaced, `sync` after one was written in place.
    """

    _version = 2  # of the state dict's entries; version 1 held `pruning` instead of `rule` for "2:4"

    weight: nn.Parameter
    bias: nn.Parameter | None
    layout: str
    layout_reason: str  # why it is this one
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
        FOLLOWERS[self._handle] = self
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
        """Derives everything else from the buffers. To be called after one was replaced. ValueError if they are not valid."""
        self._make_countable()
        self._pattern, self._rule = self._read()
        self._operands = prepared(self._kind, self._pattern)
        vars(self._pattern)["_operands"] = {self._kind.operands: self._operands}
        self._pattern_changed()

    @lasting
    def _make_countable(self) -> None:
        """Copies buffers that were made in inference mode, as these have no version counters to recognise writes by."""
        for name, tensor in self._stored().items():
            if tensor.is_inference():
                self._buffers[name] = tensor.clone()

    def _pattern_changed(self) -> None:
        self._look()
        if self._watch is not None and self._watch.sink is not None:
            self._watch.sink.pattern_changed_()

    def _look(self) -> None:
        """Remembers the buffers' version counters, by which later in-place writes are recognised, and the rule's text."""
        stored = self._stored()
        self._seen = tuple((tensor, tensor._version) for tensor in stored.values())
        self._text = stored["rule"].clone() if "rule" in stored else None
        self._prepared_at = tuple(tensor._version for tensor in self._operands)

    def _is_behind(self) -> bool:
        """Whether a buffer was written in place since `_look`."""
        return any(tensor._version != version for tensor, version in self._seen)

    def sync(self) -> None:
        """Updates what is derived, if DDP or a checkpoint wrote the buffers in place; ValueError if they are not valid.

        Synchronises on CUDA. Forward passes do this by themselves, but for a rule on CUDA or in compiled code.
        """
        if self._is_behind():
            self._update(self._operands, self._decoded())

    def _decoded(self) -> Rule | None:
        """The rule in the buffers."""
        return None if self._rule is None else Rule.decoded("", self.get_buffer("rule"), self._pattern.RULES)

    def _update(self, operands: Any, rule: Rule | None) -> None:
        """Prepares these operands if the pattern or the rule is another one."""
        pattern = self._pattern
        # DDP broadcasts before every forward, nearly always the same pattern: comparing costs less than preparing.
        if rule != self._rule or not self._kind.is_prepared(operands, pattern):
            pattern.check("", rule)
            self._rule = rule
            self._kind.prepare_(operands, pattern)
            self._pattern_changed()
        self._look()

    def follow(self, operands: Sequence[torch.Tensor] | None = None) -> None:
        """What a forward pass does where buffers were written in place. It waits for no device.

        On CUDA the pattern is therefore prepared whatever it is, and not checked; a rule must be the one that is known.
        operands: of compiled code, which holds the rule as a constant; None: the layer's.
        """
        if operands is not None:
            # The program declares a write and has raised the counters, which would spoil earlier calls' backward passes.
            torch._C._autograd._unsafe_set_version_counter(tuple(self._operands), self._prepared_at)
        if not self._is_behind():
            return
        own = self._operands if operands is None else self._kind.operands(*operands)
        if not reading_waits(self.weight):
            known, rule = self._rule, self._decoded()
            if operands is None or rule == known:
                return self._update(own, rule)
            self._update(self._operands, rule)
            raise RuntimeError(OTHER_RULE.format(f"got {rule} in place of {known}"))
        if self._text is not None:
            torch._assert_async((self._text == self.get_buffer("rule")).all(), OTHER_RULE.format("got another one"))
        # By `data`, whose version counters are apart: the same values, as DDP writes them, spoil no backward pass.
        self._kind.prepare_(self._kind.operands(*(tensor.data for tensor in own)), self._pattern)
        return self._pattern_changed()

    def _follow_compiled(self) -> None:
        """`follow` as a part of the program that is being compiled. An exported program has its pattern for good."""
        if self._names and len(self._operands) and not torch.compiler.is_exporting():
            follow_.call(list(self._stored().values()), list(self._operands), self._handle)

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

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"layout_reason": "as asked for", **state})
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
        if not self._names and self.weight.device != device:
            self._register(*self._read())
        elif self.weight.is_meta or any(tensor is not before[name] for name, tensor in self._stored().items()):
            self._bind()  # assign=True put other tensors in their place
        else:
            self.sync()
