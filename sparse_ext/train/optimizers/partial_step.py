"""Steps of an optimizer in which it sees of partly frozen weights nothing but what trains.

While it steps, a weight, its gradient and all state of its shape are short tensors of the trained part. So what is frozen keeps
value and state bit for bit, whatever the optimizer does, and the step costs less.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from types import MethodType
from typing import Any

import torch

from ..managed import ManagedLayer
from ..stamps import is_current
from ..uncompiled import uncompiled
from .found import Found, find
from .steps import changes_nothing, was_skipped
from .wrappers import parameters_of


class PartialStep:
    """Follows the steps of one innermost optimizer, until the owner is freed.

    Args:
        layers: () -> those that the optimizer trains.
    """

    def __init__(self, optimizer: Any, layers: Callable[[], Sequence[ManagedLayer]], owner: object) -> None:
        self._optimizer, self._layers = weakref.ref(optimizer), layers
        self._whole: list[tuple[torch.Tensor, torch.Tensor | None]] = []  # frozen parameters, and their gradients
        self._short: list[_Short] = []
        self._fresh: Callable[[torch.Tensor, Found], float] = lambda weight, one: 0.0
        before = optimizer.register_step_pre_hook(self._before)
        after = optimizer.register_step_post_hook(lambda *_: self.restore())
        # Whatever else looks at the weights after a step finds them whole.
        optimizer._optimizer_step_post_hooks.move_to_end(after.id, last=False)
        for handle in (before, after):
            weakref.finalize(owner, handle.remove)
        weakref.finalize(owner, _guarded(optimizer, self.restore))

    @torch.no_grad()
    def _before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.restore()  # of a step that ended by an exception
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._shorten()
            return None

        def whole_closure() -> Any:  # its passes need the whole weights, and the gradients are there when it has run
            with torch.no_grad():
                self.restore()
            loss = closure()
            with torch.no_grad():
                self._shorten()
            return loss

        return (args[0], whole_closure, *args[2:]), {name: value for name, value in kwargs.items() if name != "closure"}

    @uncompiled
    def _shorten(self) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        observes = not (changes_nothing(optimizer) or was_skipped(optimizer))
        held = {id(p) for p in parameters_of(optimizer)}
        partial = []
        for managed in self._layers():
            weight, part = managed.layer.weight, managed.part
            if id(weight) not in held or not is_current(managed):
                continue
            if observes:
                part.observe(getattr(optimizer, "grad_scale", None))
            if part.trained is None or (weight.grad is None and part.by != "layer"):
                continue
            if part.by != "layer":
                partial.append(managed)
            elif not part.trained:
                self._whole += [(p, p.grad) for p in (weight, managed.layer.bias) if p is not None]
        for parameter, _ in self._whole:
            parameter.grad = None
        if not partial:
            return
        self._fresh = partial[0].state.fresh_value
        found = find([optimizer], [managed.layer.weight for managed in partial])
        try:
            for managed in partial:
                mine = [one for one in found if one.owner is managed.layer.weight and one.tensor.shape == one.owner.shape]
                self._short.append(_Short(managed))
                self._short[-1].shorten(mine)
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Makes all weights whole again, if they are not."""
        for parameter, gradient in self._whole:
            parameter.grad = gradient
        self._whole = []
        short, self._short = self._short, []
        if not short:
            return
        found = find([self._optimizer()], [one.weight for one in short])
        for one in short:
            mine = [each for each in found if each.owner is one.weight and each.tensor.shape == one.weight.shape]
            one.lengthen(mine, self._fresh)


class _Short:
    """A weight, with its gradient and state, while they are short."""

    def __init__(self, managed: ManagedLayer) -> None:
        self.weight = managed.layer.weight
        self._at, self._rows = managed.part.at()
        self._gradient = self.weight.grad
        self._whole: torch.Tensor | None = None
        self._state: dict[tuple[str, ...], torch.Tensor] = {}  # by path, the whole tensors

    def shorten(self, state: Sequence[Found]) -> None:
        """Replaces them by their trained parts."""
        weight, gradient = self.weight, self._gradient
        assert gradient is not None
        self._whole = weight.data
        weight.grad = None
        weight.data = self._taken(self._whole)
        weight.grad = self._taken(gradient)
        for one in state:
            self._state[one.path] = one.tensor.data
            one.tensor.data = self._taken(one.tensor.data)

    def lengthen(self, state: Sequence[Found], fresh: Callable[[torch.Tensor, Found], float]) -> None:
        """Puts the trained parts back where they belong; state that is new begins elsewhere with its fresh value."""
        weight, whole = self.weight, self._whole
        assert whole is not None
        for one in state:
            before = self._state.get(one.path)
            if before is None:
                before = torch.full_like(whole, fresh(weight, one), dtype=one.tensor.dtype)
            self._put(before, one.tensor.data)
            one.tensor.data = before
        weight.grad = None
        self._put(whole, weight.data)
        weight.data = whole
        weight.grad = self._gradient

    def _taken(self, whole: torch.Tensor) -> torch.Tensor:
        part = self._matrix(whole).index_select(0, self._at)
        return part.view(-1) if whole.dim() == 1 else part

    def _put(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        matrix = self._matrix(whole)
        matrix.index_copy_(0, self._at, part.view(-1, *matrix.shape[1:]))
        if matrix.data_ptr() != whole.data_ptr():  # strides that no view can follow
            whole.copy_(matrix.view(whole.shape))

    def _matrix(self, whole: torch.Tensor) -> torch.Tensor:
        """Indexed by what is frozen together."""
        return whole.reshape(-1) if self._rows is None else whole.reshape(self._rows, -1)


def _guarded(optimizer: Any, restore: Callable[[], None]) -> Callable[[], None]:
    """Has the optimizer restore if its step ends by an exception, when no hook is called; returns what undoes this."""
    inner = optimizer.step

    @wraps(getattr(inner, "__func__", inner))  # a scheduler may have put a function in its place
    def step(_: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return inner(*args, **kwargs)
        except BaseException:
            restore()
            raise

    def undo() -> None:
        if getattr(vars(optimizer).get("step"), "__func__", None) is step:  # nobody has wrapped it since
            del optimizer.step
            if getattr(inner, "__func__", None) is not type(optimizer).step:
                optimizer.step = inner

    optimizer.step = MethodType(step, optimizer)
    return undo
