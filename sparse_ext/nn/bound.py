"""`BoundWeight`: a pattern in buffers, and what is derived from it, in step whoever writes or exchanges the buffers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Layout, Pattern, Product, Rule, Watch, layout_named, prepared
from sparse_ext.ops.boundary.launch import reading_waits
from sparse_ext.ops.dense_grad import new_handle
from sparse_ext.ops.follow import FOLLOWERS, OTHER_RULE, OTHER_SHAPES, follow_, is_batched, is_fake

from .binding import BATCHED, META, ROUNDED, UNTRACED, WRITTEN, Binding, are_rounded, countable
from .partly import PartlyTrained

# None outside of torch.jit.trace, and of make_fx.
tracing = torch._C._get_tracing_state
recording = partial(torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.PROXY)


class BoundWeight(PartlyTrained, nn.Module):
    """A module with a pattern in its buffers; see `SparseWeight`.

    The buffers are the source of truth, and a `Binding` is what is derived from one state of them. A module has up to two:
    that of its own buffers, and a guest's, of tensors that somebody put in their place, as `functional_call`, `setattr` or
    nn.DataParallel do. Its own operands stay where they are, so that CUDA graphs remain valid; a guest's are new ones, so that
    backward passes do. `_active` is the one of the last forward pass, `_watched` that of the last one with the watched weight.
    """

    weight: nn.Parameter
    layout: str
    product: Product
    _names: tuple[str, ...]  # of the buffers

    def _start(self) -> None:
        """Initialises the attributes that are neither pickled nor copied."""
        self._kind: type[Layout] = layout_named(self.layout)
        self._handle = new_handle()
        FOLLOWERS[self._handle] = self
        self._token: torch.Tensor | None = None
        self._watch: Watch | None = None
        self._rng: torch.Tensor | None = None
        self._guest: Binding | None = None

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

    # ---- what is derived ------------------------------------------------------------------------------------------------

    @property
    def _pattern(self) -> Pattern:
        """The pattern in the buffers, unchecked."""
        stored = self._stored()
        if self._names and self._active.holds(stored):
            return self._active.pattern
        return self._kind.pattern.of_buffers(self.product.rows, self.product.cols, stored, self.weight.device)

    @property
    def _rule(self) -> Rule | None:
        """The rule that the layer follows."""
        return self._active.rule

    @property
    def _operands(self) -> Any:
        """What kernels read, as of the last forward pass."""
        return self._active.operands

    def _stored(self) -> dict[str, torch.Tensor]:
        """{name: buffer} of the pattern and the rule."""
        return {name: self.get_buffer(name) for name in self._names}

    def _read(self, stored: dict[str, torch.Tensor]) -> tuple[Pattern, Rule | None]:
        """The pattern and rule in these buffers; ValueError if they are not valid."""
        kind, text = self._kind.pattern, stored.get("rule")
        pattern = kind.of_buffers(self.product.rows, self.product.cols, stored, self.weight.device)
        if any(tensor.is_meta for tensor in (stored or {"weight": self.weight}).values()):
            return pattern, None if text is None else Rule(kind.RULES[0])
        rule = None if text is None else Rule.decoded("", text, kind.RULES)
        if not is_fake(stored.values()):
            pattern.check("", rule)
        return pattern, rule

    def _derived(self, stored: dict[str, torch.Tensor]) -> Binding:
        """A new binding of these buffers; ValueError if they are not valid."""
        if is_batched(stored.values()):
            raise ValueError(BATCHED.format(self._kind.stem))
        pattern, rule = self._read(stored)
        return Binding(self._kind, pattern, rule, prepared(self._kind, pattern), stored)

    def _bind(self) -> None:
        """Derives everything from the buffers, which are the layer's own from now on; ValueError if they are not valid."""
        self._buffers.update({name: countable(tensor) for name, tensor in self._stored().items()})
        self._home = self._derived(self._stored())
        # Its size is the handle: compiled code takes so large a size for a variable, and one program serves all layers.
        self._mark = torch.empty(self._handle, 0, dtype=torch.uint8, device=self.weight.device)
        self._settle()

    def _check_buffers(self) -> None:
        """ValueError if the buffers have values, but no valid pattern. Synchronises on CUDA."""
        stored = self._stored()
        if any(tensor.is_meta for tensor in stored.values()):
            return
        if not reading_waits(self.weight):
            self._followed()
            return
        try:
            self._read(stored)
        except ValueError as error:
            raise ValueError(WRITTEN.format(error)) from error

    def _settle(self) -> None:
        """Makes the layer's own binding the only one."""
        self._active = self._watched = self._home
        self._guest = None
        self._pattern_changed()

    def _pattern_changed(self) -> None:
        self._trains = None  # it is a part of slots, which may be of other positions now
        if self._watch is not None and self._watch.sink is not None:
            self._watch.sink.pattern_changed_()

    # ---- in step with the buffers ---------------------------------------------------------------------------------------

    def _followed(self) -> Binding:
        """The binding of the buffers as they are: what a forward pass takes where they may have changed.

        Of buffers that were written in place it waits for no device: on CUDA their pattern is prepared whatever it is, and not
        checked; their rule must be the one that is known.

        Raises:
            ValueError: the pattern in the buffers is not valid. Nothing has changed.
        """
        stored = self._stored()
        known = (self._active, self._home, self._guest)
        bound = next((one for one in known if one is not None and one.holds(stored)), None)
        if bound is None:
            bound = self._guest = self._derived(stored)
        elif bound.is_meta and not self.weight.is_meta:
            raise ValueError(META.format(self._kind.stem, self.weight.device, ", ".join(stored)))
        elif bound.is_behind():
            self._renew(bound)
        self._active = bound
        if bound is not self._watched and self._watch is not None and self._watch.is_on(self._parameters.get("weight")):
            self._watched = bound
            self._pattern_changed()
        return bound

    def _renew(self, bound: Binding, operands: Any = None) -> None:
        """Brings a binding in step with its tensors, which were written in place.

        Args:
            operands: of compiled code, which holds the rule as a constant; None: the binding's.
        """
        own = bound.operands if operands is None else operands
        if not reading_waits(self.weight):
            if are_rounded(self._kind.held(own), bound.pattern.buffers):
                raise ValueError(WRITTEN.format(ROUNDED))
            known, rule = bound.rule, self._decoded(bound)
            if operands is None or rule == known:
                return self._update(bound, own, rule)
            self._update(bound, bound.operands, rule)
            raise RuntimeError(OTHER_RULE.format(f"got {rule} in place of {known}"))
        if bound.text is not None:
            torch._assert_async((bound.text == bound.stored["rule"]).all(), OTHER_RULE.format("got another one"))
        # By `data`, whose version counters are apart: the same values, as DDP writes them, spoil no backward pass.
        self._kind.prepare_(self._kind.operands(*(tensor.data for tensor in own)), bound.pattern)
        bound.look(bound.stored)
        return self._pattern_changed()

    def _decoded(self, bound: Binding) -> Rule | None:
        """The rule that its tensors hold now."""
        if bound.rule is None:
            return None
        try:
            return Rule.decoded("", bound.stored["rule"], self._kind.pattern.RULES)
        except ValueError as error:
            raise ValueError(WRITTEN.format(error)) from error

    def _update(self, bound: Binding, operands: Any, rule: Rule | None) -> None:
        """Prepares these operands if the binding's tensors hold another pattern or rule than it knows."""
        pattern = bound.pattern
        # DDP broadcasts before every forward, nearly always the same pattern: comparing costs less than preparing.
        if rule != bound.rule or not self._kind.is_prepared(operands, pattern):
            try:
                pattern.check("", rule)
            except ValueError as error:
                raise ValueError(WRITTEN.format(error)) from error
            bound.rule = rule
            self._kind.prepare_(operands, pattern)
            self._pattern_changed()
        bound.look(bound.stored)

    def sync(self) -> None:
        """Updates what is derived from the buffers, whoever wrote or exchanged them; ValueError if they are not valid.

        Synchronises on CUDA. Forward passes do this by themselves, but for a rule on CUDA or in compiled code, and for writes
        that no version counter sees, through `.data` or numpy.
        """
        if not self._active.holds(self._stored()):
            self._home = self._derived(self._stored())
            return self._settle()
        return self._update(self._active, self._active.operands, self._decoded(self._active))

    # ---- in compiled code -----------------------------------------------------------------------------------------------

    def follow(self, buffers: Sequence[torch.Tensor], operands: Sequence[torch.Tensor]) -> None:
        """What compiled code does before a product: brings these operands in step with these buffers.

        Args:
            buffers: those that the program was called with, which need not be the layer's.
            operands: the layer's, or the program's copies of them. It holds the rule as a constant.
        """
        bound, stored = self._active, dict(zip(self._names, buffers, strict=True))
        # The program declares a write and has raised the counters, which would spoil earlier calls' backward passes.
        torch._C._autograd._unsafe_set_version_counter(tuple(bound.operands), bound.prepared_at)
        own = self._kind.operands(*operands)
        if not bound.is_at(stored):
            self._move_in(bound, own, stored)
        elif bound.is_behind():
            self._renew(bound, own)

    def _move_in(self, bound: Binding, operands: Any, stored: dict[str, torch.Tensor]) -> None:
        """Makes the operands those of other tensors than the binding's."""
        if not bound.fits(stored):
            raise RuntimeError(OTHER_SHAPES.format(", ".join(f"{name} {tuple(t.shape)}" for name, t in stored.items())))
        pattern, rule = self._read(stored)
        if rule != bound.rule:
            raise RuntimeError(OTHER_RULE.format(f"got {rule} in place of {bound.rule}"))
        self._kind.prepare_(operands, pattern)
        bound.pattern = pattern
        bound.look(stored)

    def _in_graph(self) -> tuple[Any, int]:
        """Operands and handle for a program that is being compiled, exported or traced, and how it keeps them in step.

        torch.compile's has an operator for that. The others compute them from the program's own buffers in every call, so that
        a state dict that is loaded into the program has its pattern multiplied.
        """
        stored = self._stored()
        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            handle = self._mark.shape[0]
            if stored and len(self._active.operands):
                follow_.call(list(stored.values()), list(self._active.operands), handle)
            return self._active.operands, handle
        if torch.onnx.is_in_onnx_export():  # which gets the weight written out
            return self._active.operands, self._handle
        if self._active.text is not None:
            if torch.jit.is_tracing():  # TorchScript removes assertions as dead code
                raise RuntimeError(UNTRACED)
            torch._assert_async((stored["rule"] == self._active.text).all(), OTHER_RULE.format("got another one"))
        pattern = self._kind.pattern.of_buffers(self.product.rows, self.product.cols, stored, self.weight.device)
        operands = self._kind.allocate(pattern)
        self._kind.prepare_(operands, pattern)
        return operands, self._handle

    @torch.no_grad()
    def write_pattern_(self, pattern: Pattern, rule: Rule | None = None) -> None:
        """Writes a pattern of the same shape and capacity into the buffers, in place. The caller moves the values.

        Args:
            rule: the new rule of a dense weight; None: the present one stays.
        """
        for name, tensor in pattern.buffers.items():
            self.get_buffer(name).copy_(tensor)
        bound = self._active
        own = bound.holds(self._stored())
        if rule is not None and (rule != bound.rule or not own):
            self.get_buffer("rule").copy_(rule.encoded(self.weight.device))
        if not own:
            return self._bind()
        bound.rule = bound.rule if rule is None else rule
        self._kind.prepare_(bound.operands, bound.pattern)
        bound.look(bound.stored)
        return self._pattern_changed()
