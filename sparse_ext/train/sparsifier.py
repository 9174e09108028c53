"""`Sparsifier`: runs a method on a model. One call per training step asks the method for actions and carries them out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparse_ext.methods import Action, Choose, Method, Regrow, Time
from sparse_ext.ops import lasting

from . import dense_weights, distributed
from .form import check_form
from .managed import ManagedLayer
from .names import named_layers
from .observation import Observation
from .optimizer_check import checked_state
from .report import History, Report
from .state import VERSION, check_state, described, methods_by_name, upgraded
from .step_hooks import follow_steps, sample_gradients
from .uncompiled import uncompiled
from .undo import Undo
from .wrappers import sequence

Group = list[ManagedLayer]  # the layers that one method trains

VERIFIED = 100  # updates by rules, which may come every step, are compared across ranks once in so many


class Sparsifier:
    """Runs a method on a model: changes the patterns of its sparse layers, and moves the optimizer's state along.

    Surviving weights keep their value and optimizer state bit for bit; new ones start at 0, with the state of one that got no
    gradient yet. An update changes all layers or, if it fails, none. Tensors keep their shape and address, so CUDA graphs and
    compiled code stay valid unless a method switches the layout. Growth uses the gradient that the optimizer's step uses; what
    `zero_grad` discards or `torch.autograd.grad` computes does not count.

    Args:
        model: contains the sparse layers; may be wrapped by DDP or `torch.compile`.
        optimizer: holds their weights, or several that do. A trial on a small weight has to show that its state can follow.
        method: such as `RigL()`; or {name pattern: method}, where the first pattern that matches a layer's name counts, such as
            `{"blocks.*.mlp.*": RigL(), "*": Static()}`.
        total_steps: length of the run in training steps; schedules are shares of it.
        replace_step: as in the RigL paper, an update replaces the optimizer step and discards the gradients. Call `step()`
            *before* the optimizer then: `if not sparsifier.step(): optimizer.step()`.
        seed: of random growth; the same on all ranks.
        process_group: the ranks that train one model together (None: all). They sum gradients and compare pattern hashes.
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
        process_group: dist.ProcessGroup | None = None,
        trust_optimizer: bool = False,
    ) -> None:
        layers = {name: layer for name, layer in named_layers(model).items() if layer.weight.requires_grad}
        if not layers:
            raise ValueError("expected a model with trainable sparse layers, got none; call sparsify_(model, ...) first")
        if total_steps < 1:
            raise ValueError(f"expected total_steps of at least 1, got {total_steps}")
        methods = methods_by_name(method, list(layers))
        state = checked_state(sequence(optimizer), layers, methods, trust_optimizer)
        self.optimizer, self.method, self.total_steps = optimizer, method, total_steps
        self.replace_step, self.seed = replace_step, seed
        self._process_group = process_group
        self._layers = [
            ManagedLayer(name, layer, methods[name], state, Observation(layer, methods[name], process_group))
            for name, layer in layers.items()
        ]
        self._groups: list[tuple[Method, Group]] = [
            (one, [managed for managed in self._layers if managed.method == one]) for one in dict.fromkeys(methods.values())
        ]
        self._step = self._updates = 0
        self._postponed_to = [0] * len(self._groups)  # the step of an update that a non-finite gradient put off; 0: none
        for one, group in self._groups:
            distributed.refuse_shards(group, one)
            dense_weights.check(group, one, one.plan(_numbers(group), self._time()), replace_step)
        for managed in self._layers:
            managed.layer.sync()
            managed.make_room(model)
        self._settle()
        self._history = History({managed.name: managed.layer for managed in self._layers})
        self._attach({})
        self._arm()

    def _time(self, later: int = 0) -> Time:
        return Time(self._step + later, self.total_steps)

    def _attach(self, offsets: dict[str, int]) -> None:
        """Gives the layers their rng, continued from `offsets`, and registers the optimizer's hooks."""
        self._sample(offsets)
        follow_steps(self._layers, not self.replace_step, self)

    def _sample(self, offsets: dict[str, int]) -> None:
        """Has layers sample their output gradients, if the method wants that and the layout can."""
        # This text determines the seed: do not change it, or resumed runs of earlier versions get other numbers.
        group = self._process_group
        sample_gradients(self._layers, lambda name: self._stream(f"draw/{distributed.rank(group)}/{name}"), offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "offsets": self._offsets()}

    @lasting
    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy watches its layers and registers its hooks anew: neither is copied."""
        offsets = state.pop("offsets")
        self.__dict__.update(state)
        self._attach(offsets)
        self._arm()

    # ---- the training loop's side ---------------------------------------------------------------------------------------

    @uncompiled
    @lasting
    def step(self) -> bool:
        """Call once per training step, after `optimizer.step()`. Returns True if an update changed anything.

        A non-finite gradient, as on a step that AMP skips, postpones the update until its gradient steps have been observed
        again. A layer that got no gradient keeps its pattern. Raises RuntimeError if ranks have different patterns.
        """
        self._step += 1
        try:
            for managed in self._layers:
                managed.observation.end()
            changed = self._update()
        except BaseException:
            self._step -= 1  # the next call makes up for it
            raise
        self._arm()
        return changed

    @lasting
    def track(self, model: nn.Module) -> None:
        """Also changes the patterns of a copy of the model (an EMA, `torch.optim.swa_utils.AveragedModel`) at every update.

        Raises:
            ValueError: the copy lacks a layer, has it with another pattern, or was made in inference mode.
        """
        copies = named_layers(model)
        for managed in self._layers:
            managed.check_copy(copies)
        for managed in self._layers:
            managed.copies.append(copies[managed.name])

    def _arm(self) -> None:
        """Observes the next step's dense gradient if an update needs it; counts accumulations in the step before that."""
        time = self._time(1)
        for (method, group), postponed_to in zip(self._groups, self._postponed_to, strict=True):
            if method.signals and (time.step <= postponed_to or method.observes(time)):
                alone = method.observed_steps() == 1
                actions = method.plan(_numbers(group), time) if alone else {}
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
        """Carries out these orders, after what they change was kept; True if there are any."""
        if not orders:
            return False
        for managed, action in orders:
            managed.keep(undo, action)
        self._history.begin_update(self._step)
        for managed, action in orders:
            change = managed.carry_out(action, self._stream(f"{self._step}/{managed.name}"))
            self._history.add(managed.name, managed.layer, *change)
        self._updates += 1
        # Rules may choose in every step, and a comparison synchronises: those are compared now and then only.
        if any(not isinstance(action, Choose) for _, action in orders) or self._updates % VERIFIED == 1:
            distributed.verify_agreement(self._layers, self._step, self._process_group)
        if self.replace_step:
            for optimizer in sequence(self.optimizer):
                optimizer.zero_grad(set_to_none=True)
        return True

    def _orders(self, number: int, method: Method, group: Group) -> list[tuple[ManagedLayer, Action]]:
        """The method's actions for its layers now; none, and the update is postponed, if a signal it needs is unusable."""
        distributed.refuse_shards(group, method)  # anew: fully_shard may have come after us
        actions = method.plan(_numbers(group), self._time())
        orders, usable = [], True
        for managed in group:
            action = actions.get(managed.name)
            if action is None or (not isinstance(action, Regrow | Choose) and managed.is_so(action)):
                continue
            if isinstance(action, Regrow) and managed.observation.needs(action):
                if managed.observation.idle:
                    continue
                usable &= managed.observation.is_usable(action)
            managed.check(action)
            orders.append((managed, action))
        self._postponed_to[number] = 0 if usable else self._step + method.observed_steps()
        if usable:
            return orders
        for managed in group:
            managed.observation.clear()
        return []

    def _settle(self) -> None:
        """Gives layers the layout and rule that their methods want at this step."""
        for method, group in self._groups:
            actions = method.plan(_numbers(group), self._time())
            for managed in group:
                if managed.name in actions:
                    managed.settle(actions[managed.name])

    def _stream(self, use: str) -> int:
        """The seed of the random stream for this use: the same on every rank and after a resume."""
        text = f"{self.seed}/{use}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)

    # ---- state and report -------------------------------------------------------------------------------------------------

    def _offsets(self) -> dict[str, int]:
        """{layer name: rng offset}, how often it has sampled its output gradient."""
        return {m.name: int(m.layer.rng[1]) for m in self._layers if m.layer.rng is not None}

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs in addition to the model's and optimizer's state: plain values and tensors, for `torch.save`."""
        observations = {managed.name: managed.observation for managed in self._layers}
        return {
            "version": VERSION,
            "step": self._step,
            "updates": self._updates,
            "postponed_to": list(self._postponed_to),
            "total_steps": self.total_steps,
            "seed": self.seed,
            "method": described(self.method),
            "shapes": {m.name: [m.layer.product.rows, m.layer.product.cols] for m in self._layers},
            "signals": {name: state for name, one in observations.items() if (state := one.state_dict())},
            "observed": {name: one.observed for name, one in observations.items()},
            "spoiled": [name for name, one in observations.items() if one.spoiled],
            "offsets": self._offsets(),
            **self._history.state_dict(),
        }

    @lasting
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a `state_dict()`. Load the model's and the optimizer's state too.

        Raises:
            ValueError: the state belongs to other layers or another method, or is corrupt; nothing has changed.
            TypeError: an entry of the state is of another type; nothing has changed.
        """
        check_form(state_dict)
        own = self.state_dict()
        state = upgraded(state_dict, list(own["shapes"]))
        check_state(state, own)
        signals = {
            m.name: m.observation.restored(state["signals"].get(m.name, {}), state["observed"].get(m.name, 0))
            for m in self._layers
        }
        self._step, self._updates, self.seed = state["step"], state["updates"], state["seed"]
        self._postponed_to, self.total_steps = list(state["postponed_to"]), state["total_steps"]
        self._history.load_state_dict(state)
        self._settle()
        self._sample(state["offsets"])
        for managed in self._layers:
            name = managed.name
            managed.observation.restore(signals[name], state["observed"].get(name, 0), name in state["spoiled"])
        self._arm()

    def report(self) -> Report:
        """nnz, density, replaced connections, coverage and flip rate of every layer; `print` shows a table."""
        return Report(self._step, self._updates, tuple(self._history.of(m.name, m.layer) for m in self._layers))


def _numbers(group: Group) -> dict[str, Any]:
    """What a method sees of its layers."""
    return {managed.name: managed.numbers() for managed in group}
