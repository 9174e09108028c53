"""`Sparsifier`: runs a method on a model. One call per training step asks the method for actions and carries them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from sparse_ext.methods import Action, Choose, Freeze, Method, Regrow
from sparse_ext.ops import lasting

from . import dense_layers, distributed, fit
from .attach import Attachment
from .loop import Loop
from .managed import ManagedLayer
from .names import named_layers
from .observation import Observation
from .optimizers.check import admit, checked_state, refuse_computed, trainable
from .optimizers.wrappers import parameters_of, sequence
from .report import History, Report
from .resumable import Group, Resumable, live, numbers_of
from .sampling import offsets_of, sample
from .uncompiled import uncompiled
from .undo import Undo

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

VERIFIED = 100  # updates by rules, which may come every step, are compared across ranks once in so many


class Sparsifier(Resumable):
    """Runs a method on a model: changes the patterns of its sparse layers, and moves the optimizer's state along.

    Surviving weights keep their value and optimizer state bit for bit; new ones start at 0, with the state of one that got no
    gradient yet. An update changes all layers or, if it fails, none. Tensors keep their shape and address, so CUDA graphs and
    compiled code stay valid, unless a method switches the layout, or changes the density of a layer with layout="auto", whose
    storage follows it. Growth uses the gradient that the optimizer uses, not what `zero_grad` or `autograd.grad` takes.

    Args:
        model: contains the sparse layers; may be wrapped by DDP or `torch.compile`.
        optimizer: holds their weights, or several that do. A trial on a small weight has to show that its state can follow.
        method: such as `RigL()`; or {name pattern: method}, where the first pattern that matches a layer's name counts, such as
            `{"blocks.*.mlp.*": RigL(), "*": Static()}`.
        total_steps: length of the run in training steps; schedules are shares of it.
        replace_step: as in the RigL paper, an update replaces the optimizer step and discards the gradients. Call `step()`
            *before* the optimizer then: `if not sparsifier.step(): optimizer.step()`.
        seed: of random growth; the same on all ranks.
        process_group: the ranks that train one model together (None: all), also as a DeviceMesh of one dimension. They sum
            gradients and compare pattern hashes.
        trust_optimizer: takes any optimizer. State of a weight's shape follows its pattern, all other state is left alone.

    Raises:
        ValueError: no sparse layers, layers that the method cannot train, or an optimizer that lacks a weight or cannot follow.

    Example:
        sparsifier = Sparsifier(model, optimizer, RigL(), total_steps=10_000)
        loss.backward(); optimizer.step(); sparsifier.step(); optimizer.zero_grad()  # in every training step
    """

    @lasting
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        method: Method | Mapping[str, Method],
        *,
        total_steps: int,
        replace_step: bool = False,
        seed: int = 0,
        process_group: dist.ProcessGroup | DeviceMesh | None = None,
        trust_optimizer: bool = False,
    ) -> None:
        sparse = named_layers(model)
        self._process_group = distributed.group_of(process_group)
        everyone, methods = dense_layers.methods_by_layer(model, sparse, method, optimizer)
        layers = trainable(everyone)
        if total_steps < 1:
            raise ValueError(f"expected total_steps of at least 1, got {total_steps}")
        distributed.refuse_local_steps(sequence(optimizer), list(methods.values()), self._process_group)
        self._state = checked_state(sequence(optimizer), layers, methods, trust_optimizer)
        self.optimizer, self.method, self.total_steps = optimizer, method, total_steps
        self.replace_step, self.seed = replace_step, seed
        with dense_layers.enrolled({name: everyone[name] for name in methods}):
            self._manage({name: (everyone[name], one) for name, one in methods.items()}, model)

    def _manage(self, layers: dict[str, tuple[Any, Method]], model: nn.Module) -> None:
        """Begins with these layers and their methods."""
        self._layers = [
            ManagedLayer(name, layer, one, self._state, Observation(layer, one.parts[0], self._process_group))
            for name, (layer, one) in layers.items()
        ]
        refuse_computed(self._layers)
        self._groups: list[tuple[Method, Group]] = [
            (part, [managed for managed in self._layers if part in managed.parts])
            for part in dict.fromkeys(part for managed in self._layers for part in managed.parts)
        ]
        self._attached = False
        self._step = self._updates = 0
        self._postponed_to = [0] * len(self._groups)
        wrappers = [m for m in model.modules() if isinstance(m, nn.parallel.DistributedDataParallel)]
        self._admit(live(self._layers), wrappers)
        self._history = History({managed.name: managed.layer for managed in self._layers})
        for managed in self._layers:
            managed.coverage = self._history.coverage_of(managed.name)
        self._follow({}, wrappers)
        self._loop.say(*fit.idle([method for method, _ in self._groups], self.total_steps))
        self._arm()

    def _admit(self, layers: Group, wrappers: Sequence[nn.Module]) -> None:
        """Gives layers what their methods need from now on; ValueError, before any has changed, where that is impossible."""
        for method, group in self._groups:
            if new := [managed for managed in group if managed in layers]:
                distributed.refuse_shards(new, method)
                fit.check(new, method, method.plan(numbers_of(new), self._time()), self.replace_step)
        for managed in layers:
            managed.layer.sync()
            managed.make_room(wrappers)
        self._settle(layers)

    def _follow(self, offsets: dict[str, int], wrappers: Sequence[nn.Module] = ()) -> None:
        """Gives the layers their rng, continued from `offsets`, and registers the hooks."""
        self._sample(offsets)
        self._loop = Loop(self._layers, self._state.optimizers, wrappers, not self.replace_step, self)
        if self._attached:
            self._attached = False
            self.attach()

    def _sample(self, offsets: dict[str, int]) -> None:
        # This text determines the seeds: do not change it, or resumed runs of earlier versions get other numbers.
        sample(self._layers, offsets, lambda name: self._stream(f"draw/{distributed.rank(self._process_group)}/{name}"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "offsets": offsets_of(self._layers), "_loop": None}

    @lasting
    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy watches its layers and registers its hooks anew: neither is copied."""
        offsets = state.pop("offsets")
        self.__dict__.update(state)
        for managed in self._layers:
            dense_layers.enroll(managed.layer)  # copies of dense layers are plain ones
        self._follow(offsets)
        self._arm()

    def _review(self) -> None:
        """Notes which layers are frozen now. Those that no longer are get what those that train got at construction."""
        refuse_computed(self._layers)
        held = {id(p) for optimizer in self._state.optimizers for p in parameters_of(optimizer)}
        if thawed := [managed for managed in self._layers if managed.review(held)]:
            admit(self._state, {m.name: m.layer for m in thawed}, {m.name: m.method for m in thawed})
            self._admit(thawed, self._loop.wrappers)
        self._loop.check_parameters([managed.name for managed in self._layers if managed.frozen and managed.is_replaced])

    # ---- the training loop's side ---------------------------------------------------------------------------------------

    def attach(self) -> Sparsifier:
        """Has the optimizer's own step call `step()`, for loops that a trainer owns. The optimizer then keeps this Sparsifier.

        So there is one call for every step that the optimizer makes (of several: the first), none for one that AMP skips or for
        a micro-batch. The optimizer's `state_dict` holds this Sparsifier's state, and its `load_state_dict` loads it.
        `torch.distributed.checkpoint` saves only what it knows: there, save this Sparsifier's `state_dict()` too.

        Returns:
            This Sparsifier.

        Raises:
            ValueError: with `replace_step`, without hooks, a second time, or for several optimizers and a method that freezes.

        Example:
            Sparsifier(model, optimizer, RigL(), total_steps=10_000).attach()
            Trainer(model, args, optimizers=(optimizer, None), ...).train()
        """
        if self.replace_step:
            raise ValueError(
                "attach: expected replace_step=False, got True: an update that takes a step's place comes before it"
            )
        self._loop.check_attachable()
        if not self._attached:
            Attachment(self, self._loop.first)
            self._attached, self._loop.advance = True, self._advance
        return self

    def step(self) -> bool:
        """Call once per training step, after `optimizer.step()`. Returns True if an update changed a pattern.

        A non-finite gradient, as on a step that AMP skips, postpones the update until its gradient steps have been observed
        again. A layer that got no gradient keeps its pattern, and a frozen one keeps all: one whose weight needs no gradient,
        or that no optimizer holds. Warns, once, of calls that do not fit the loop. Raises RuntimeError if ranks have different
        patterns.
        """
        if self._attached:
            self._loop.say(
                "step(): expected no call by hand after attach(), as the optimizer's step makes it; this one does nothing"
            )
            return False
        return self._advance()

    @uncompiled
    @lasting
    def _advance(self) -> bool:
        distributed.refuse_join(self._loop.wrappers, [method for method, _ in self._groups], self._process_group)
        self._loop.check(self._step + 1)
        if not self._step and not self._loop.loaded:
            for method, group in self._groups:
                fit.check_start(live(group), method)
        self._compare_stamps()
        self._step += 1
        try:
            self._history.end_step(self._step, self._layers)
            self._review()
            changed = self._update()
        except BaseException:
            self._step -= 1  # the next call makes up for it
            raise
        self._arm()
        return changed

    def _arm(self) -> None:
        """Observes the next step's dense gradient if an update needs it; counts accumulations in the step before that."""
        time = self._time(1)
        awaited = bool(self._loop.wrappers) or distributed.world_size(self._process_group) > 1
        dense_layers.arm(self._groups, self._postponed_to, time, awaited)
        for (method, every), postponed_to in zip(self._groups, self._postponed_to, strict=True):
            group = live(every)
            if method.signals and (time.step <= postponed_to or method.observes(time)):
                alone = method.observed_steps() == 1
                actions = method.plan(numbers_of(group), time) if alone else {}
                for managed in group:
                    managed.observation.begin(actions.get(managed.name), alone)
            elif method.signals and method.observes(self._time(2)):
                for managed in group:
                    managed.observation.count()

    # ---- updates --------------------------------------------------------------------------------------------------------

    def _update(self) -> bool:
        """Carries out what the methods order at this step, all of it or nothing; True if anything changed."""
        due = [i for i, at in enumerate(self._postponed_to) if at == self._step or self._groups[i][0].is_update(self._time())]
        if not due:
            return False
        with Undo() as undo, self._layers[0].state.remembered():
            undo.keep_attributes(self, *self._history.parts(), *(part for m in self._layers for part in m.observation.parts()))
            return self._carry_out([order for i in due for order in self._orders(i, *self._groups[i])], undo)

    def _carry_out(self, orders: list[tuple[ManagedLayer, Action]], undo: Undo) -> bool:
        """Carries out these orders, after what they change was kept; True if a pattern, layout or rule may have changed."""
        if not orders:
            return False
        for managed, action in orders:
            managed.keep(undo, action)
        if not all(isinstance(action, Freeze) for _, action in orders):
            self._history.begin_update(self._step)
        for managed, action in orders:
            change = managed.carry_out(action, self._stream(f"{self._step}/{managed.name}"), self._time())
            self._history.add(self._step, managed, action, *change)
        self._updates += 1
        # Rules may choose in every step, and a comparison synchronises: those are compared now and then only.
        if any(not isinstance(action, Choose) for _, action in orders) or self._updates % VERIFIED == 1:
            distributed.verify_agreement(self._layers, self._step, self._process_group)
        if self.replace_step:
            for optimizer in sequence(self.optimizer):
                optimizer.zero_grad(set_to_none=True)
        return not all(isinstance(action, Freeze) for _, action in orders)

    def _orders(self, number: int, method: Method, group: Group) -> list[tuple[ManagedLayer, Action]]:
        """The method's actions for its layers now; none, and the update is postponed, if a signal it needs is unusable."""
        # Anew: fully_shard may have come after us. It gives layers other Parameters, which no optimizer holds yet.
        distributed.refuse_shards([managed for managed in group if managed.layer.weight.requires_grad], method)
        group = live(group)
        actions = method.plan(numbers_of(group), self._time()) if group else {}
        orders, usable = [], method.importance is None or dense_layers.are_scored(group)
        for managed in group:
            action = actions.get(managed.name)
            if action is None or (not isinstance(action, Regrow | Choose) and managed.is_so(action)):
                continue
            if isinstance(action, Freeze) and not managed.part.scored:  # it took no part in this step
                continue
            if isinstance(action, Regrow):
                if managed.observation.lacks(action):
                    self._loop.check_sight(managed.observation)
                    continue
                usable &= managed.observation.is_usable(action)
            managed.check(action)
            orders.append((managed, action))
        self._postponed_to[number] = 0 if usable else self._step + method.observed_steps()
        if usable:
            return orders
        for managed in group if method.signals else ():
            managed.observation.clear()
        return []

    # ---- the report -----------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """nnz, density, average density, replaced connections, coverage, flip rate of every layer; `print` shows a table."""
        return Report(self._step, self._updates, tuple(self._history.of(managed, self._step) for managed in self._layers))
