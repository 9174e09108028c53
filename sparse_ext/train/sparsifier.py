"""`Sparsifier`: runs a method on a model. Plan, regrow, move the optimizer state along; one call per training step."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparse_ext.methods import Growth, Method, Regrow
from sparse_ext.nn import Scores, SparseLayer, sparse_layers

from . import masters, ranks, scoring
from .report import History, Report
from .state import check_optimizer, move_state_, pad_state_, state_tensors, take_


class Sparsifier:
    """Changes the patterns of a model's sparse layers as a method says, and keeps every optimizer honest about it.

    Call `step()` once per training step, after `optimizer.step()`, as a learning-rate scheduler is called. A layer's surviving
    weights keep their value and optimizer state bit for bit, new ones start at 0 with zero state, and nnz is exact. Tensors
    keep their shape and address, so CUDA graphs and compiled code stay valid (a graph not into `FST`'s dense tail). A method
    that prunes a dense 2:4 master makes room for it in a packed layer, chooses what products take of it, and adds masked decay
    to its gradients right before each optimizer step.

    Args:
        model: holds the sparse layers (also inside DDP or `torch.compile`).
        optimizer: holds their weights; its state must have one value per weight (no Adafactor, Muon, Shampoo).
        method: `RigL(...)`, `SET(...)`, `Static()`; for layout "2:4" also `FST(...)`, `SSTE(...)`, `SRSTE(...)`.
        total_steps: length of the run; schedules are shares of it.
        replace_step: the paper's variant, in which an update takes the place of the optimizer step: call `step()` *before* the
            optimizer and write `if not sparsifier.step(): optimizer.step()`. An update then also discards the gradients.
        seed: of random growth; the same on all ranks.
        process_group: the ranks that train one model together; None: all, where torch.distributed is initialised. They add
            up their scores, so they agree on the pattern without sending it, and compare a hash of it after each update.

    Raises:
        ValueError: no sparse layers, layers that the method cannot train, or an optimizer that lacks a weight or cannot follow.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Method,
        *,
        total_steps: int,
        replace_step: bool = False,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        layers = {name: layer for name, layer in sparse_layers(model).items() if layer.weight.requires_grad}
        if not layers:
            raise ValueError("expected a model with trainable sparse layers, got none; call sparsify_(model, ...) first")
        if total_steps < 1:
            raise ValueError(f"expected total_steps of at least 1, got {total_steps}")
        check_optimizer(optimizer, layers)
        ranks.refuse_shards(layers, method)
        self.optimizer, self.method, self.total_steps = optimizer, method, total_steps
        self.replace_step, self.seed = replace_step, seed
        masters.check(layers, method, replace_step)
        self._layers = layers
        self._group = process_group
        self._copies: list[dict[str, SparseLayer]] = []
        for name, layer in layers.items():
            layer.catch_up()
            self._make_room(model, name, layer)
            masters.prune(layer, method.pruning(0, total_steps))
        self._step = self._updates = 0
        self._postponed_to = 0  # the step of an update that non-finite scores put off; 0: none
        self._history = History({_plain(name): layer for name, layer in layers.items()})
        self._uses = dict.fromkeys(layers, 0)  # of a layer in the last step that had any; not known of compiled ones
        self._passes = dict.fromkeys(layers, 0)  # the most backward passes that an armed step had
        self._attach()
        self._arm()

    def _attach(self, draws: dict[str, int] | None = None) -> None:
        """Hands the layers random numbers, gone on from `draws`, and the optimizer masked decay, if the method has them."""
        self._sample(draws or {})
        if factor := self.method.masked_decay():
            masters.decay_with(self.optimizer, [*self._layers.values()], factor, self)

    def _sample(self, draws: dict[str, int]) -> None:
        for name, layer in self._layers.items():
            if self.method.samples_gradient():
                seed = self._stream(f"draw/{ranks.own(self._group)}/{_plain(name)}")
                masters.sample(layer, seed, draws.get(_plain(name), 0))
            elif layer.pattern.draw is not None:  # of a method before this one
                layer.sample_gradient(None)

    def _make_room(self, model: nn.Module, name: str, layer: SparseLayer) -> None:
        """Enlarges a layer whose density will grow beyond its capacity, with its optimizer state."""
        positions = layer.pattern.rows * layer.pattern.cols
        needed = round(self.method.max_density(layer.density) * positions)
        if needed <= layer.capacity:
            return
        if any(isinstance(m, nn.parallel.DistributedDataParallel) and layer in set(m.modules()) for m in model.modules()):
            raise ValueError(
                f"{name}: expected room for {needed} entries before the model is wrapped, got {layer.capacity}; "
                "pass method=... to sparsify_"
            )
        old = layer.pattern
        layer.enlarge_(needed)
        pad_state_(self.optimizer, layer.weight, old)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "growth": self._growth(), "draws": self._draws()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: copied layers are never armed."""
        growth, draws = state.pop("growth"), state.pop("draws")
        self.__dict__.update(state)
        self._attach(draws)
        self._arm(growth)

    # ---- the training loop's side ---------------------------------------------------------------------------------------

    @torch.compiler.disable
    @torch.no_grad()
    def step(self) -> bool:
        """Counts a step and updates the patterns if it is time. True when they changed.

        Non-finite scores (as on a step that AMP skips) postpone the update until as many steps as it needs are scored anew.
        A layer that saw no backward pass keeps its pattern.
        """
        self._step += 1
        for name, layer in self._layers.items():
            self._uses[name] = layer.take_uses() or self._uses[name]
            if layer.growth is not None:
                self._passes[name] = max(self._passes[name], int(layer.growth.passes))
        changed = self._is_due(self._step) and self._update()
        self._arm()
        return changed

    def track(self, model: nn.Module) -> None:
        """Moves the layers of a copy (an EMA, `torch.optim.swa_utils.AveragedModel`) along with every update.

        Raises:
            ValueError: a layer is missing there or has another pattern.
        """
        copies = {_plain(name): layer for name, layer in sparse_layers(model).items()}
        tracked = {}
        for name, layer in self._layers.items():
            copy = copies.get(_plain(name))
            if copy is None:
                raise ValueError(f"track: expected a copy of the sparse layer {name!r}, got none among {sorted(copies)}")
            if ranks.digest(copy) != ranks.digest(layer):
                raise ValueError(f"track: expected {name!r} with the same pattern in both models, got different ones")
            tracked[name] = copy
        self._copies.append(tracked)

    def _is_due(self, step: int) -> bool:
        return step == self._postponed_to or self.method.is_update(step, self.total_steps)

    def _arm(self, growth: dict[str, torch.Tensor] | None = None) -> None:
        """Asks the next step's backward for the dense gradient, if an update needs it; `growth`: the sums so far."""
        step = self._step + 1
        if not (step <= self._postponed_to or self.method.is_scored(step, self.total_steps)):
            return
        for name, layer in self._layers.items():
            plan = self.method.plan(layer.nnz, step, self.total_steps)
            sums = (growth or {}).get(_plain(name))
            scoring.arm(layer, plan, self.method, self._passes[name] or self._uses[name], sums, self._group)

    def _growth(self) -> dict[str, torch.Tensor]:
        """The sums of updates that are scored over several steps, between two of these."""
        armed = {_plain(name): layer.growth for name, layer in self._layers.items()}
        if self.method.scored_steps() <= 1:
            return {}
        begun = {name: growth.kept for name, growth in armed.items() if growth is not None and int(growth.passes)}
        return {name: kept for name, kept in begun.items() if isinstance(kept, torch.Tensor)}

    def _draws(self) -> dict[str, int]:
        """How often the layers have sampled their output gradient."""
        return {_plain(n): int(draw[1]) for n, layer in self._layers.items() if (draw := layer.pattern.draw) is not None}

    def _update(self) -> bool:
        ranks.refuse_shards(self._layers, self.method)  # anew: fully_shard may have come after us
        choice = self.method.pruning(self._step, self.total_steps)
        changed = self._regrow_all() if choice is None else self._prune_all(choice)
        self._updates += changed
        # A master's choices may come in every step: looked at now and then.
        if changed and (choice is None or self._updates % masters.VERIFIED == 1):
            ranks.verify_agreement(self._layers, self._step, self._group)
        return changed

    def _prune_all(self, choice: str) -> bool:
        self._history.begin_update(self._step)
        for name, layer in self._layers.items():
            self._history.add(_plain(name), layer.pattern, *layer.prune_(choice))
            for copies in self._copies:
                copies[name].write_pattern_(*layer.pattern.stored)
        return True

    def _regrow_all(self) -> bool:
        plans = {
            name: plan
            for name, layer in self._layers.items()
            if (plan := self.method.plan(layer.nnz, self._step, self.total_steps)) is not None
        }
        for name in plans:
            state_tensors(self.optimizer, self._layers[name].weight)  # refuses before anything has changed
        scores = {name: scoring.take(layer, self._group) for name, layer in self._layers.items()}
        plans = {name: plan for name, plan in plans.items() if not scoring.is_idle(scores[name], plan)}
        unusable = not all(scoring.is_usable(scores[name], plan) for name, plan in plans.items())
        self._postponed_to = self._step + self.method.scored_steps() if unusable else 0
        if unusable or not plans:
            return False
        self._history.begin_update(self._step)
        for name, plan in plans.items():
            self._regrow(name, plan, scores.pop(name))
        if self.replace_step:
            self.optimizer.zero_grad(set_to_none=True)
        return True

    def _regrow(self, name: str, plan: Regrow, scores: Scores | None) -> None:
        layer = self._layers[name]
        pattern = layer.pattern
        kept = scores.kept if scores is not None and plan.growth is Growth.GRADIENT else None
        stream = self._stream(f"{self._step}/{_plain(name)}")
        stored, source = pattern.regrown(layer.weight.detach(), kept, stream, plan.drop, plan.grow)
        layer.write_pattern_(*stored)
        move_state_(self.optimizer, layer.weight, source)
        for copies in self._copies:
            copies[name].write_pattern_(*stored)
            take_(copies[name].weight.data, source)
        new = int((pattern.entries(source, pattern.nnz) < 0).sum())
        self._history.add(_plain(name), pattern, new, new + plan.drop - plan.grow)

    def _stream(self, use: str) -> int:
        """The random stream for this use: the same on every rank and after a resume."""
        text = f"{self.seed}/{use}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)

    # ---- state and report -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs beside the model's and the optimizer's state: plain values and tensors.

        Between two of several `gradient_steps` that includes the sums so far, which are each rank's own.
        """
        return {
            "step": self._step,
            "updates": self._updates,
            "postponed_to": self._postponed_to,
            "total_steps": self.total_steps,
            "seed": self.seed,
            "method": {"name": type(self.method).__name__, **asdict(self.method)},
            "shapes": {_plain(name): [layer.pattern.rows, layer.pattern.cols] for name, layer in self._layers.items()},
            "growth": {name: total.clone() for name, total in self._growth().items()},
            "draws": self._draws(),
            **self._history.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where `state_dict()` was taken; load the model's and the optimizer's state too.

        Raises:
            ValueError: it belongs to other layers or another method; nothing is changed then.
        """
        own = self.state_dict()
        if missing := own.keys() - state_dict.keys():
            raise ValueError(f"expected a Sparsifier's state, got one without {', '.join(sorted(missing))}")
        if state_dict["method"] != own["method"]:
            raise ValueError(f"expected the state of method {own['method']}, got {state_dict['method']}")
        if state_dict["shapes"].keys() != own["shapes"].keys():
            raise ValueError(f"expected the state of layers {list(own['shapes'])}, got {list(state_dict['shapes'])}")
        if state_dict["shapes"] != own["shapes"]:
            raise ValueError(f"expected the state of layers of shapes {own['shapes']}, got {state_dict['shapes']}")
        sums = {name: list(total.shape) for name, total in state_dict["growth"].items()}
        if not sums.items() <= own["shapes"].items():
            raise ValueError(f"expected gradient sums of shapes {own['shapes']}, got {sums}")
        coverage = {name: tuple(bits.shape) for name, bits in state_dict["coverage"].items()}
        if coverage != (expected := {name: tuple(bits.shape) for name, bits in own["coverage"].items()}):
            raise ValueError(f"expected the state of these layouts, with coverage of shapes {expected}, got {coverage}")
        self._step, self._updates = state_dict["step"], state_dict["updates"]
        self._postponed_to, self.seed = state_dict["postponed_to"], state_dict["seed"]
        self.total_steps = state_dict["total_steps"]
        self._history.load_state_dict(state_dict)
        for layer in self._layers.values():
            masters.prune(layer, self.method.pruning(self._step, self.total_steps))
        self._sample(state_dict["draws"])
        for layer in self._layers.values():
            layer.take_growth()
        self._arm(state_dict["growth"])

    def report(self) -> Report:
        """Density, replaced connections and coverage of every layer."""
        rows = [self._history.of(_plain(name), layer) for name, layer in self._layers.items()]
        return Report(self._step, self._updates, tuple(rows))


def _plain(name: str) -> str:
    """The layer's name without what DDP, AveragedModel and torch.compile put around a model."""
    parts = [part for part in name.split(".") if part not in ("module", "_orig_mod")]
    return ".".join(parts)
