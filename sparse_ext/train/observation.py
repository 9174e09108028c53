"""`Observation`: passes one layer's dense gradient from the backward pass to the signals of its method."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from sparse_ext.methods import Action, Method, Regrow
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import GradientTotal

from . import distributed
from .optimizers.scaled import Before, before_step, scale_left
from .signals import LayerView, Signal, signal_classes


class Observation:
    """What a Sparsifier keeps of one layer's dense gradient.

    If a step has one accumulation, in one process, and the signal allows it, only the candidates for growth are kept.
    Otherwise, or while the number is unknown, the dense gradient is summed over micro-batches and ranks for the signals.

    Attributes:
        signals: {name: signal} of the method, created at the first observed step.
        passes: the largest number of accumulations in a step; 0: unknown.
        observed: how many steps the signals have observed since the last update.
        spoiled: whether a gradient since then was not finite, or could not be kept.
        blind: whether gradients since then came where none could be seen.
        unseen: whether the optimizer has used a gradient since then that no backward pass accumulated.
        had_gradient: whether `weight.grad` held one when the optimizer's last step began; None: unknown.
    """

    def __init__(self, layer: SparseLayer, method: Method, group: dist.ProcessGroup | None) -> None:
        self.layer = layer
        self.signals: dict[str, Signal] = {}
        self.passes = self.observed = 0
        self.spoiled = self.blind = self.unseen = False
        self.had_gradient: bool | None = None
        self._view = LayerView(layer)
        self._before: Before | None = None  # of the optimizer's present step
        self._method = method
        self._kinds = signal_classes(method.signals)
        self._group = group
        self._streamed: Any = None  # what a growth sink kept of the last step,
        self._grow = 0  # enough to grow so many positions

    # ---- one step -------------------------------------------------------------------------------------------------------

    def begin(self, action: Action | None, may_stream: bool) -> None:
        """Observes the layer's next step.

        Args:
            action: the layer's action after that step, if known.
            may_stream: whether the update uses this step's gradient alone.
        """
        layer = self.layer
        if not any(kind.OBSERVES for kind in self._kinds.values()):
            return  # they read what the layer has at the update
        may_stream = may_stream and all(kind.STREAMS or not kind.OBSERVES for kind in self._kinds.values())
        if may_stream and not (isinstance(action, Regrow) and self.needs(action)):
            return  # the update would leave this layer as it is, or not ask for the gradient
        sink = None
        alone = self.passes == 1 and distributed.world_size(self._group) == 1
        if may_stream and alone and isinstance(action, Regrow) and action.streams:
            sink, self._grow = layer.pattern.growth_sink(layer.weight, lambda: layer.pattern, action.grow), action.grow
        layer.watch(sink or GradientTotal(layer.weight, layer.product))

    def count(self) -> None:
        """Counts the accumulations of the layer's next step, if their number is unknown."""
        if not self.passes and any(kind.OBSERVES for kind in self._kinds.values()):
            self.layer.watch(None)

    def end(self) -> bool:
        """Ends the step: keeps its candidates, or lets the signals observe its gradient. True if that gradient was computed."""
        if self.layer.watched is None:
            return False
        watch = self.layer.unwatch()
        assert watch is not None
        self.passes = max(self.passes, watch.passes)
        stayed = watch.token is not None and watch.token.device == self.layer.weight.device  # otherwise no call was wrong
        self.blind |= watch.missed and not watch.passes and stayed
        sink = watch.sink
        if isinstance(sink, GradientTotal):
            passes = distributed.sum_(torch.tensor([watch.passes], device=sink.total.device), self._group)
            distributed.sum_(sink.total, self._group)
            self._show(sink, int(passes))
        elif sink is not None:
            self._streamed = sink.kept()
            self.spoiled |= watch.passes > 0 and not sink.is_finite()
        return sink is not None and watch.passes > 0

    def _show(self, sink: GradientTotal, passes: int) -> None:
        if not passes:
            return
        observing = [(name, kind) for name, kind in self._kinds.items() if kind.OBSERVES]
        if not sink.is_finite():
            self.spoiled |= not all(kind.SKIPS for _, kind in observing)
            return
        self.observed += 1
        for number, (name, kind) in enumerate(observing):
            if name not in self.signals:
                self.signals[name] = self._new(kind, sink.total)
            total = sink.total if number == 0 else sink.total.clone()
            self.signals[name].observe(total, range(total.shape[0]))

    def _new(self, kind: type[Signal], like: torch.Tensor) -> Signal:
        """A signal that has observed nothing, for gradients like this one."""
        product = self.layer.product
        signal = kind(product.rows, product.cols, torch.promote_types(like.dtype, torch.float32), like.device, self._method)
        signal.layer = self._view
        return signal

    # ---- an update ------------------------------------------------------------------------------------------------------

    def score(self, name: str, left: torch.Tensor | None = None) -> Any:
        """What ranks positions by this signal: dense [rows, cols], or what a growth sink kept.

        As the weight is now: `double()` or `to(...)` may have come since the signal began.

        left: bool [rows, cols], for signals that read their layer: the positions to see as the stored ones.
        """
        if self._streamed is not None:
            return self._streamed
        if name not in self._kinds:
            raise ValueError(f"expected one of the method's signals {', '.join(map(repr, self._kinds))}, got {name!r}")
        weight = self.layer.weight
        return self._signal(name, left).score().to(weight.device, torch.promote_types(weight.dtype, torch.float32))

    def _signal(self, name: str, left: torch.Tensor | None = None) -> Signal:
        """The signal of this name, which sees all of its layer or what is left; one that observes nothing begins when asked."""
        if name not in self.signals and not self._kinds[name].OBSERVES:
            self.signals[name] = self._new(self._kinds[name], self.layer.weight)
        self.signals[name].layer.left = left
        return self.signals[name]

    def total(self, name: str, where: torch.Tensor | None = None) -> float:
        """The sum of the magnitudes of a signal's scores; 0 where it has observed nothing.

        where: bool [rows, cols], to sum there alone.
        """
        if name not in self.signals and self._kinds[name].OBSERVES:
            return 0.0
        score = self._signal(name).score().abs()
        return float((score if where is None else score[where]).sum())

    def needs(self, action: Regrow) -> bool:
        """Whether the action ranks positions by a signal that observes gradients."""
        return any(name in self._kinds and self._kinds[name].OBSERVES for name in (action.grow_by, action.keep_by))

    def is_ready(self, action: Regrow) -> bool:
        """Whether the signals that the action ranks by have scores; of those that observe, `is_usable` says it."""
        names = [name for name in (action.grow_by, action.keep_by) if name in self._kinds and not self._kinds[name].OBSERVES]
        return all(self._signal(name).is_ready() for name in names)

    def _reads(self, action: Regrow) -> bool:
        """Whether the action ranks positions by what the optimizer's step has left in `weight.grad`."""
        return any(name in self._kinds and self._kinds[name].READS_GRADIENT for name in (action.grow_by, action.keep_by))

    @property
    def reads_gradient(self) -> bool:
        """Whether a signal reads what the optimizer's step has left in `weight.grad`."""
        return any(kind.READS_GRADIENT for kind in self._kinds.values())

    def lacks(self, action: Regrow) -> bool:
        """Whether nothing says where to drop, or to grow: the layer keeps its pattern."""
        return not self.is_ready(action) or (self.needs(action) and self.idle)

    @property
    def idle(self) -> bool:
        """Whether no accumulation came since the last update, on any rank: nothing says where to grow."""
        return not (self.observed or self.spoiled or self._streamed is not None)

    def is_usable(self, action: Regrow) -> bool:
        """Whether what the action ranks by is finite, and enough for it."""
        gradient = self.layer.weight.grad
        if self._reads(action) and not (gradient is not None and gradient.isfinite().all()):
            return False
        return not self.needs(action) or (not self.spoiled and (self._streamed is None or action.grow <= self._grow))

    def open(self, scale: torch.Tensor | None) -> None:
        """The optimizer is about to step. scale: of a GradScaler, if it leaves dividing by it to the optimizer."""
        self.had_gradient = self.layer.weight.grad is not None
        self._before = before_step(self.layer.weight.grad, scale)

    def close(self) -> None:
        """The optimizer has stepped: what comes until `end` does not belong to this step."""
        watch, gradient = self.layer.watched, self.layer.weight.grad
        self._view.scale, self._before = scale_left(gradient, self._before), None
        if watch is None:
            return
        watch.close()
        if not (watch.passes or watch.missed or gradient is None):
            self.unseen |= bool(gradient.any())

    def clear(self) -> None:
        """Discards what was observed: after an update, or when one is postponed."""
        self._streamed = None
        self.spoiled = self.blind = self.unseen = False
        self.observed = 0
        for signal in self.signals.values():
            signal.updated()

    def parts(self) -> list[Any]:
        """The objects whose attributes an update changes."""
        return [self, *self.signals.values()]

    # ---- checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """{signal: its tensors}, of those that keep anything."""
        states = {name: signal.state_dict() for name, signal in self.signals.items()}
        return {name: state for name, state in states.items() if state}

    def restored(self, state: dict[str, Any], observed: int) -> dict[str, Signal]:
        """The signals that `state_dict` gave, which observed so many steps; ValueError where they cannot be this layer's."""
        signals: dict[str, Signal] = {}
        for name, tensors in state.items():
            if name not in self._kinds:
                raise ValueError(f"expected the state of signals {', '.join(map(repr, self._kinds)) or 'none'}, got {name!r}")
            signals[name] = self._new(self._kinds[name], self.layer.weight)
            signals[name].load_state_dict(tensors)
        if observed and (missing := [name for name, kind in self._kinds.items() if kind.OBSERVES and name not in signals]):
            raise ValueError(f"expected the state of signals that observed {observed} steps, got none of {', '.join(missing)}")
        return signals

    def restore(self, signals: dict[str, Signal], observed: int, spoiled: bool) -> None:
        """Goes on with `restored` signals; all others begin anew."""
        self.signals, self._streamed = signals, None
        self.observed, self.spoiled = observed, spoiled
        self.blind = self.unseen = False
        self.layer.unwatch()
