"""`ManagedLayer`: one sparse layer of a Sparsifier, with all that must change together with its pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from sparse_ext.methods import Action, Choose, Freeze, LayerNumbers, Method, Regrow, Switch, Time
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import Pattern, slot_map

from .changes import CHANGES, Change
from .coverage import Coverage
from .distributed import digest
from .observation import Observation
from .optimizers.state import OptimizerState, take_
from .storage import follow_density, give_room, is_exact, may_resize, may_store_otherwise, room_of
from .trained_part import TrainedPart
from .undo import Undo


class ManagedLayer:
    """A layer, what optimizers keep of its weight, and its copies in other models.

    Attributes:
        name: its name in the model, without the prefixes of DDP and `torch.compile`.
        method: the method that trains it; of several, the one that changes its pattern.
        parts: all of its methods.
        state: of all optimizers; moves along with the weight.
        observation: of its dense gradient.
        part: what of it trains; the rest is frozen.
        copies: the same layer in tracked copies of the model.
        home: the layout it was built with, to return to after a `Switch`.
        coverage: which of its positions were ever in use, as the Sparsifier's report has it.
        frozen: whether nothing of it may change: its weight needs no gradient, or no optimizer holds it.
        trained: whether its weight needed a gradient when its optimizer last stepped; None: it has not since `review`. A GAN's
            discriminator is frozen while the generator trains, yet trained.
        state_loaded: whether its optimizer has loaded a state and not stepped since, so that weights of that state may follow.
        is_other: whether something besides the method's actions has changed its pattern or form since the last step.
        state_stamp: of the positions that a loaded state of the Sparsifier belongs to, until its next step; None: unknown.
    """

    def __init__(self, name: str, layer: SparseLayer, method: Method, state: OptimizerState, observation: Observation) -> None:
        self.name, self.layer, self.state = name, layer, state
        self.parts, self.part = method.parts, TrainedPart(layer)
        self.method = self.parts[0]
        self.observation = observation
        self.copies: list[SparseLayer] = []
        self.coverage: Coverage | None = None
        self.home = layer.layout
        self._weight = layer.weight
        self.frozen = not layer.weight.requires_grad
        self.trained: bool | None = None
        self.state_loaded = self.is_other = False
        self.state_stamp: str | None = None
        self._slots: torch.Tensor | None = None  # while the layer loads: those before,
        self._left = False  # and whether it has left their storage

    def numbers(self) -> LayerNumbers:
        """What the method sees of it."""
        layer = self.layer
        return LayerNumbers(
            rows=layer.product.rows,
            cols=layer.product.cols,
            capacity=room_of(layer),
            layout=layer.layout,
            dense_weight=layer.chosen_by is not None,
            count=lambda: layer.nnz,
            total=lambda name: self.part.total() if name == "importance" else self.observation.total(name),
            shape=layer.product.weight_shape,
            target=layer.target_nnz,
            total_in_use=lambda name: self.observation.total(name, layer.pattern.mask()),
            observed=lambda: not self.observation.idle,
            share=self.part.share,
        )

    def ever_in_use(self) -> torch.Tensor:
        """bool [rows, cols]: what is in use, or was at any time. A pattern that was loaded counts from its first update on."""
        now = self.layer.pattern.mask()
        return now if self.coverage is None else self.coverage.mask().to(now.device) | now

    def review(self, held: set[int]) -> bool:
        """Notes whether the layer is frozen now; whether it no longer is. held: the ids of what the optimizers hold."""
        weight, before = self.layer.weight, self.frozen
        trained = weight.requires_grad if self.trained is None else self.trained
        self.frozen, self.trained = not (trained and id(weight) in held), None
        if self.frozen and not before:
            self.observation.clear()
        return before and not self.frozen

    @property
    def is_replaced(self) -> bool:
        """Whether the layer has another Parameter than at first, and one that is to be trained."""
        return self.layer.weight is not self._weight and self.layer.weight.requires_grad

    def make_room(self, wrappers: Sequence[nn.Module]) -> None:
        """Gives the weight the capacity that the method needs; ValueError inside DDP, whose buckets have the old length.

        wrappers: the model's instances of DDP.
        """
        layer, positions = self.layer, self.layer.product.rows * self.layer.product.cols
        if self.method.changes_density:
            layer.aim_at_(layer.target_nnz / max(1, positions))  # as its present target, which is said so from now on
        makes_dense = self.method.dense_weight and layer.chosen_by is None
        # A layer whose density changes may be at any by now, as in a run that is resumed: room is counted from its own.
        density = layer.target_nnz / max(1, positions) if self.method.changes_density else layer.density
        needed = positions
        if not makes_dense:
            spare = math.floor(self.method.spare_per_row * layer.product.rows)
            needed = min(positions, round(self.method.max_density(density) * positions) + spare)
        grows_later = self.method.changes_density and may_resize(layer)
        if not makes_dense and (needed <= layer.capacity or grows_later):
            return
        if any(layer in set(wrapper.modules()) for wrapper in wrappers):
            raise ValueError(
                f"{self.name}: expected capacity for {needed} entries before the model is wrapped, got {layer.capacity}; "
                "pass method=... to sparsify_"
            )
        self.resize(lambda one: one.store_dense_() if makes_dense else one.enlarge_(needed))
        self.is_other = True

    def check_copy(self, copies: Mapping[str, SparseLayer]) -> None:
        """ValueError unless a copy of the model, with these layers, has this one with the same pattern, and writable."""
        name, copy = self.name, copies.get(self.name)
        if copy is None:
            raise ValueError(f"track: expected a copy of the sparse layer {name!r}, got none among {sorted(copies)}")
        if copy.weight.is_inference():
            raise ValueError(
                f"track: expected weights that can be written, got an inference tensor in {name!r}: copy the model outside of "
                "inference mode"
            )
        if digest(copy) != digest(self.layer):
            raise ValueError(f"track: expected {name!r} with the same pattern in both models, got different ones")

    def is_so(self, action: Action) -> bool:
        """Whether the layer already has the layout, or the rule, of the action."""
        if isinstance(action, Switch):
            return self.layer.layout == action.layout
        return isinstance(action, Choose) and self.layer.chosen_by is not None and self.layer.chosen_by.name == action.rule

    def check(self, action: Action) -> None:
        """ValueError if an optimizer has state that cannot follow this action."""
        if self._moves(action) or self.is_partly_trained:
            self.state.check([self.layer.weight])

    def keep(self, undo: Undo, action: Action) -> None:
        """Keeps all that this action changes: of what moves with the weight, a copy of each tensor."""
        undo.keep_attributes(self.part)
        if isinstance(action, Freeze):
            return
        if moves := self._moves(action):
            for one in self.state.of(self.layer.weight):
                undo.keep_tensor(one.tensor)
        for layer in (self.layer, *self.copies):
            undo.keep_layer(layer, values=moves)

    def _moves(self, action: Action) -> bool:
        """Whether values may change their places in the weight: a choice of positions of a dense weight leaves them."""
        return not isinstance(action, Choose | Freeze) or (isinstance(action, Choose) and self.layer.chosen_by is None)

    @property
    def is_partly_trained(self) -> bool:
        """Whether one of its methods freezes parts of it."""
        return any(part.freezes for part in self.parts)

    def settle(self, action: Action) -> None:
        """Brings the layer to the action's layout or rule, as after loading a state, unless it is there already."""
        begins = isinstance(action, Choose) and action.trained is not None and self.part.trained is None
        if begins or not (isinstance(action, Regrow | Freeze) or self.is_so(action)):
            self.carry_out(action, 0)
            self.is_other = True

    def carry_out(self, action: Action, seed: int, time: Time | None = None) -> Change:
        """Changes the layer, its copies and the optimizer's state, and its storage if that should follow.

        seed: of random choices. time: None: the storage is another's choice.
        """
        if not isinstance(action, Regrow) or time is None or not may_store_otherwise(self.layer):
            return CHANGES[type(action)](self, action, seed)
        give_room(self, action, time)
        change = CHANGES[type(action)](self, action, seed)
        if not is_exact(action) or action.drop != action.grow:
            follow_density(self, time)
        return change

    def write_pattern_(self, pattern: Pattern, source: torch.Tensor) -> torch.Tensor:
        """Gives a packed layer and its copies another pattern; all that has a value for each slot follows by the slot map.

        Returns:
            How many positions are new, int64 [].
        """
        layer = self.layer
        layer.write_pattern_(pattern)
        self.state.move_(layer.weight, source)
        self.part.follow(source)
        for copy in self.copies:
            copy.write_pattern_(pattern)
            take_(copy.weight.data, source)
        self.observation.clear()
        grown = source < 0
        if layer.pattern.nnz < layer.pattern.capacity:  # unused slots have no source either
            grown &= layer.pattern.positions() >= 0
        return grown.sum()

    def before_load(self) -> None:
        """A checkpoint is about to be loaded into the layer, which may have taken over the checkpoint's storage."""
        left = getattr(self.layer, "_slots_left", None)  # a plain layer, of which parts are frozen, has none
        self._slots, self._left = self.layer.slots() if left is None else left, left is not None

    def after_load(self) -> None:
        """It is loaded: what else has values by position follows, if the pattern is another one.

        A state that the optimizer has loaded is that of the checkpoint, whichever of the two was loaded first.
        """
        before, self._slots = self._slots, None
        if before is not None and not torch.equal(before, now := self.layer.slots()):
            self._follow_load(before, now)
        self.part.arm_again()

    def _follow_load(self, before: torch.Tensor, now: torch.Tensor) -> None:
        self.is_other = True
        layer, weight, source = self.layer, self.layer.weight, slot_map(before.to(now.device), now)
        if self.state_stamp is None:  # otherwise what trains was loaded, as a part of the checkpoint's pattern
            self.part.follow(source)
        for copy in self.copies:
            if torch.equal(copy.slots(), before) and self._left:
                copy.adopt_(layer.layout, layer.pattern, layer.layout_reason)
            elif torch.equal(copy.slots(), before):
                copy.write_pattern_(layer.pattern, layer.chosen_by)
                take_(copy.weight.data, source)
        if weight.grad is not None and not self._left:  # otherwise it has moved with the layer
            take_(weight.grad, source)
        if self.state_loaded:
            return
        if self._left:
            self.state.resize_(weight, self.state.of(weight, before.shape), source)
        else:
            self.state.move_state_(weight, source)

    def resize(self, change: Callable[[SparseLayer], torch.Tensor]) -> None:
        """Carries out a change of the weight's form, which returns its slot map."""
        state = self.state.of(self.layer.weight)
        source = change(self.layer)
        self.state.resize_(self.layer.weight, state, source)
        self.part.follow(source)
        for copy in self.copies:
            change(copy)
