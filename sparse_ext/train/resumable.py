"""`Resumable`: what of a Sparsifier goes into checkpoints, and what it does where one is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparse_ext.methods import Layers, Method, Time
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import lasting
from sparse_ext.ops.pattern import largest

from .loop import Loop
from .managed import ManagedLayer
from .names import named_layers
from .report import History
from .sampling import offsets_of
from .stamps import recognise, stamp
from .state import VERSION, described, read

Group = list[ManagedLayer]  # the layers that one method trains


class Resumable:
    """The part of a `Sparsifier` that resumes a run."""

    method: Method | Mapping[str, Method]
    total_steps: int
    seed: int
    _layers: Group
    _groups: list[tuple[Method, Group]]
    _history: History
    _loop: Loop
    _step: int
    _updates: int
    _postponed_to: list[int]  # by group: the step of an update that a non-finite gradient put off; 0: none

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
            "offsets": offsets_of(self._layers),
            "trained": {managed.name: state for managed in self._layers if (state := managed.part.state_dict())},
            "stamps": {managed.name: stamp(managed.layer) for managed in self._layers},
            **self._history.state_dict(self._step),
        }

    @lasting
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a `state_dict()`. Load the model's and the optimizer's state too.

        The number of steps, the seed and what was observed are the state's; `total_steps` is this Sparsifier's, with a warning
        if the state has another.

        Raises:
            ValueError: the state belongs to other layers or another method, or is corrupt; nothing has changed.
            TypeError: an entry of the state is of another type; nothing has changed.
        """
        state = self.check_state(state_dict)
        signals = {
            m.name: m.observation.restored(state["signals"].get(m.name, {}), state["observed"].get(m.name, 0))
            for m in self._layers
        }
        for managed in self._layers:
            managed.part.check(managed.name, state["trained"].get(managed.name, {}))
        if state["total_steps"] != self.total_steps:
            self._loop.say(
                f"total_steps: the loaded state was saved with {state['total_steps']}, this Sparsifier was made with "
                f"{self.total_steps}, which counts from now on: schedules go on as of step {state['step']} of so many"
            )
        self._step, self._updates, self.seed = state["step"], state["updates"], state["seed"]
        self._postponed_to = list(state["postponed_to"])
        self._loop.loaded = True
        self._history.load_state_dict(state)
        self._settle(live(self._layers))
        self._sample(state["offsets"])
        for managed in self._layers:
            name = managed.name
            managed.observation.restore(signals[name], state["observed"].get(name, 0), name in state["spoiled"])
            managed.part.load_state_dict(state["trained"].get(name, {}))
            managed.state_stamp = state["stamps"].get(name)
            recognise(managed)
        self._arm()

    @lasting
    def track(self, model: nn.Module) -> None:
        """Also changes the patterns of a copy of the model (an EMA, `torch.optim.swa_utils.AveragedModel`) at every update.

        Raises:
            ValueError: the copy lacks a layer, has it with another pattern, or was made in inference mode.
        """
        copies, layers = named_layers(model), [managed for managed in self._layers if isinstance(managed.layer, SparseLayer)]
        for managed in layers:
            managed.check_copy(copies)
        for managed in layers:
            managed.copies.append(copies[managed.name])

    def check_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state in today's form, if `load_state_dict` would take it; it raises the same errors, and changes nothing."""
        return read(state_dict, self.state_dict(), [managed.name for managed in self._layers if managed.frozen])

    def _compare_stamps(self) -> None:
        """Warns if a state was loaded, but not the patterns that belong to it."""
        stamped = [managed for managed in self._layers if managed.state_stamp is not None]
        other = [managed.name for managed in stamped if managed.state_stamp != stamp(managed.layer)]
        for managed in stamped:
            managed.state_stamp = None
        if other:
            self._loop.say(
                "expected the positions of the weights with which the loaded state was saved, got others in "
                f"{', '.join(other)}: optimizer state and signals belong to other weights; load the model's state too"
            )

    @property
    def is_current(self) -> bool:
        """Whether no later Sparsifier trains one of the layers."""
        return self._loop.is_current

    # ---- what resuming needs --------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        raise NotImplementedError

    def _sample(self, offsets: dict[str, int]) -> None:
        raise NotImplementedError

    def _time(self, later: int = 0) -> Time:
        return Time(self._step + later, self.total_steps)

    def _settle(self, layers: Group) -> None:
        """Gives layers the layout and rule that their methods want at this step."""
        for method, every in self._groups:
            group = [managed for managed in every if managed in layers]
            actions = method.plan(numbers_of(group), self._time()) if group else {}
            for managed in group:
                if managed.name in actions:
                    managed.settle(actions[managed.name])

    def _stream(self, use: str) -> int:
        """The seed of the random stream for this use: the same on every rank and after a resume."""
        text = f"{self.seed}/{use}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def numbers_of(group: Group) -> Layers:
    """What a method sees of its layers."""
    return Layers({managed.name: managed.numbers() for managed in group}, lambda count: smallest(group, count))


def smallest(group: Group, count: int) -> dict[str, int]:
    """How many of the `count` smallest magnitudes of all these layers are each one's."""
    used = [_in_use(managed).abs() for managed in group]
    sizes = [values.numel() for values in used]
    if not 0 <= count <= sum(sizes):
        raise ValueError(f"expected a count between 0 and {sum(sizes)} (positions in use), got {count}")
    stay = largest(torch.cat([values.to(used[0].device, torch.float64) for values in used]), sum(sizes) - count)
    return {m.name: size - int(part.sum()) for m, size, part in zip(group, sizes, stay.split(sizes), strict=True)}


def _in_use(managed: ManagedLayer) -> torch.Tensor:
    """The values of the positions in use."""
    layer = managed.layer
    where = layer.pattern.positions() >= 0 if layer.chosen_by is None else layer.pattern.mask().view(-1)
    return layer.weight.detach()[where]


def live(group: Group) -> Group:
    """The layers that are not frozen."""
    return [managed for managed in group if not managed.frozen]
