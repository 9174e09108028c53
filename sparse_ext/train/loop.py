"""The training loop as a Sparsifier sees it: what its optimizers do, by their hooks, and what looks wrong, said once."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from . import stamps
from .managed import ManagedLayer
from .observation import Observation
from .optimizers.masked_decay import decay_with
from .optimizers.partial_step import PartialStep
from .optimizers.steps import changes_nothing, gradients_wait, was_skipped
from .optimizers.wrappers import leaves, parameters_of
from .uncompiled import uncompiled


class Loop:
    """Follows the steps of a Sparsifier's optimizers, until the Sparsifier is freed.

    Args:
        layers: the Sparsifier's.
        optimizers: those that the user steps. Of wrappers the innermost are followed: they step, whoever calls them.
        wrappers: the model's instances of DDP.
        hears_steps: whether `Sparsifier.step()` comes after the optimizer's step.
        owner: the Sparsifier, which the hooks must not hold.

    Attributes:
        first: the innermost optimizer of the first; its steps are the training's.
        wrappers: as given.
        advance: called after every step of `first`, once `attach()` was.
        loaded: whether a state of the Sparsifier was loaded.
    """

    def __init__(
        self,
        layers: Sequence[ManagedLayer],
        optimizers: Sequence[torch.optim.Optimizer],
        wrappers: Sequence[nn.Module],
        hears_steps: bool,
        owner: object,
    ) -> None:
        self.wrappers = list(wrappers)
        self.advance: Callable[[], object] | None = None
        self.loaded = False
        self._layers = list(layers)
        self._leaves = list(dict.fromkeys(leaf for optimizer in optimizers for leaf in leaves(optimizer)))
        self.first = self._leaves[0]
        self._steps = 0  # of `first` since the last call of `Sparsifier.step()`
        self._without = 0  # calls without such a step, though gradients waited for one
        self._resumed = any(_has_state(leaf, managed) for leaf in self._leaves for managed in layers)
        self._hears_steps = hears_steps and hasattr(self.first, "_optimizer_step_post_hooks")  # some wrappers lack it
        self._said: set[str] = set()
        for managed in layers:
            stamps.claim(managed, owner)
            if self._hears_steps:
                managed.trained = managed.layer.weight.requires_grad  # as if its optimizer had just stepped
        for leaf in self._leaves:
            self._follow(leaf, hears_steps, owner)

    def _follow(self, optimizer: torch.optim.Optimizer, hears_steps: bool, owner: object) -> None:
        if any(managed.method.masked_decay or managed.method.exploration for managed in self._layers):
            decay_with(optimizer, partial(self._held_by, optimizer), owner)
        if any(managed.is_partly_trained for managed in self._layers):
            PartialStep(optimizer, partial(self._held_by, optimizer), owner)
        handles = []
        reads = any(managed.observation.reads_gradient for managed in self._layers)
        if hears_steps and reads and hasattr(optimizer, "_optimizer_step_pre_hooks"):
            handles.append(optimizer.register_step_pre_hook(self._stepping))
        if hears_steps and hasattr(optimizer, "_optimizer_step_post_hooks"):
            handles.append(optimizer.register_step_post_hook(self._stepped))
        if hasattr(optimizer, "_optimizer_load_state_dict_post_hooks"):
            handles.append(optimizer.register_load_state_dict_post_hook(self._loaded_state))
        for handle in handles:
            weakref.finalize(owner, handle.remove)

    def _held_by(self, optimizer: torch.optim.Optimizer) -> list[ManagedLayer]:
        """The layers that this optimizer trains. A single one trains all: of a sharding wrapper it holds this rank's part."""
        if len(self._leaves) == 1:
            return self._layers
        held = {id(p) for p in parameters_of(optimizer)}
        return [managed for managed in self._layers if id(managed.layer.weight) in held]

    def check_attachable(self) -> None:
        """ValueError if a method scores the weights of a layer that another optimizer holds than the first."""
        mine = self._held_by(self.first)
        scored = [managed for managed in self._layers if any(part.importance for part in managed.parts)]
        if others := [managed.name for managed in scored if managed not in mine]:
            raise ValueError(
                f"attach: expected one optimizer for all layers of a method that freezes, got others for {', '.join(others)}, "
                "which may step later; call step() by hand after all of them"
            )

    # ---- what the optimizers do -----------------------------------------------------------------------------------------

    @uncompiled
    def _stepping(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for managed in self._held_by(optimizer):
            managed.observation.open(getattr(optimizer, "grad_scale", None))

    @uncompiled
    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if changes_nothing(optimizer):
            return
        for managed in self._held_by(optimizer):
            managed.observation.close()
            managed.trained = managed.layer.weight.requires_grad
            managed.state_loaded = False
        if optimizer is self.first:
            self._steps += 1
            if self.advance is not None and self.is_current and not was_skipped(optimizer):
                self.advance()

    def _loaded_state(self, optimizer: torch.optim.Optimizer) -> None:
        for managed in self._held_by(optimizer):
            managed.state_loaded = True
            self._resumed |= _has_state(optimizer, managed)

    @property
    def is_current(self) -> bool:
        """Whether no later Sparsifier trains one of the layers."""
        return all(stamps.is_current(managed) for managed in self._layers)

    # ---- what looks wrong -----------------------------------------------------------------------------------------------

    def check(self, step: int) -> None:
        """Called by `Sparsifier.step()`, the so manyth call; warns where the calls do not fit the loop.

        Raises:
            RuntimeError: a later Sparsifier trains a layer.
        """
        if not self.is_current:
            later = ", ".join(managed.name for managed in self._layers if not stamps.is_current(managed))
            raise RuntimeError(
                f"step(): expected one Sparsifier for a layer, got a later one for {later}; call that one's step()"
            )
        if step == 1 and self._resumed and not self.loaded:
            self.say(
                "the optimizer has state of earlier steps, but no state of this Sparsifier was loaded: its schedules start at "
                "step 0; to resume, load it by load_state_dict(), or attach() before the optimizer's state is saved and loaded"
            )
        if self._hears_steps and not self._steps and self._without < 2 and gradients_wait(self.first):
            self._without += 1
            if self._without == 2:  # one alone may be a call before the optimizer's step
                self.say(
                    "step(): expected one call for every step of the optimizer, got calls without one: schedules run ahead of "
                    "the training; call it after optimizer.step(), not for every micro-batch, or use attach()"
                )
        self._steps = 0

    def check_sight(self, idle: Observation) -> None:
        """Called for a layer that saw no gradient before an update was due; warns if there was one."""
        if idle.reads_gradient and idle.had_gradient is not False:
            self.say(
                "step(): expected weight.grad as the optimizer's step has left it, got None: weights are ranked by their "
                "gradients, and updates are left out; call step() after optimizer.step() and before optimizer.zero_grad(), or "
                "use attach()"
            )
        elif idle.blind:
            self.say(
                "step(): expected a call after the optimizer's step and before the next forward pass, got one elsewhere: "
                "growth sees no gradient, and updates are left out; call it right after optimizer.step(), or use attach()"
            )
        elif idle.unseen:
            self.say(
                "expected gradients that a backward pass accumulates, got some that were put into weight.grad, as from "
                "torch.func.grad or torch.autograd.grad: growth sees no dense gradient, and updates are left out; call "
                "loss.backward(), or use SET()"
            )

    def check_parameters(self, names: Sequence[str]) -> None:
        """Called with the layers whose weights are other Parameters than at first, and held by no optimizer."""
        if names:
            self.say(
                f"expected the weights that the optimizer holds, got other Parameters in {', '.join(names)}, as by "
                "load_state_dict(assign=True): these layers no longer train; build optimizer and Sparsifier after that"
            )

    def say(self, *sentences: str) -> None:
        """Warns, unless it did."""
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                warnings.warn(sentence, stacklevel=4)


def _has_state(optimizer: Any, managed: ManagedLayer) -> bool:
    """Whether the optimizer keeps something of the layer's weight; one that is none of torch.optim's may keep it elsewhere."""
    return bool(getattr(optimizer, "state", {}).get(managed.layer.weight))
