"""`MovableWeight`: what `Module.to`, `half`, `type` and `to_empty` do to a sparse weight; random patterns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from sparse_ext.ops import Pattern
from sparse_ext.ops.follow import is_fake

from .receptive_field import receptive_field
from .weight import SparseWeight

Buffers = dict[str, torch.Tensor | None]


class MovableWeight(SparseWeight):
    """A sparse weight whose pattern survives every move, and which gets a random one from a move that carries nothing over.

    So the user's own initialisation of `weight` is all that a layer needs after `to_empty` or `torch.nn.utils.skip_init`.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> MovableWeight:
        return self._move(fn, recurse, self.random_pattern)

    def allocate_(self, device: torch.device) -> None:
        """As `to_empty`, for a caller that chooses the pattern: an empty one is there to be overwritten, none is drawn."""
        self._move(partial(torch.empty_like, device=device), True, self._no_pattern_yet)

    def _move(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool, first_pattern: Callable[[], Pattern]
    ) -> MovableWeight:
        self._check_buffers()
        before, had_values = self._stored(), not self.weight.is_meta
        super()._apply(fn, recurse)
        self._rng, self._token = (None if tensor is None else fn(tensor) for tensor in (self._rng, self._token))
        carried = are_carried_(self._buffers, before) and (had_values or self.weight.is_meta)
        if self._names and not carried:
            self._overwrite(first_pattern())
        self._bind()
        if not carried:
            self._clear_unused()
        return self

    def random_pattern(self, spread: float | None = None) -> Pattern:
        """A new random pattern with the initial nnz, for this layer's capacity; the seed is PyTorch's next random number.

        spread: of each row's positions, see `receptive_field`; None: any positions.
        """
        # Not the present nnz: after to_empty the buffers are uninitialised.
        sizes, seed = (self.product.rows, self.product.cols, self._initial_nnz), _seed(self.weight)
        if spread is None:
            return self._pattern.random(*sizes, seed, self.weight.device, self._pattern.capacity)
        score = receptive_field(*sizes[:2], spread, seed, self.weight.device)
        return self._pattern.select(score, sizes[2], capacity=self._pattern.capacity)

    def _no_pattern_yet(self) -> Pattern:
        return self._pattern.empty(self.product.rows, self.product.cols, self._pattern.capacity, self.weight.device)

    def _overwrite(self, pattern: Pattern) -> None:
        """Writes a pattern, and the layout's first rule, over buffers that hold nothing yet."""
        rule = self._first_rule("rule" in self._names)
        given = pattern.buffers if rule is None else {**pattern.buffers, "rule": rule.encoded(self.weight.device)}
        for name, tensor in given.items():
            self.get_buffer(name).copy_(tensor)

    @torch.no_grad()
    def _clear_unused(self) -> None:
        """Writes 0 into the slots that store no position."""
        weight: Any = self.weight
        if self._rule is None:
            unused = self.slots() < 0
            if _is_sharded(weight):  # each rank takes its own part of the mask, which all of them know
                unused = dist.tensor.distribute_tensor(unused, weight.device_mesh, weight.placements, src_data_rank=None)
            weight.masked_fill_(unused, 0)


def are_carried_(buffers: Buffers, before: dict[str, torch.Tensor]) -> bool:
    """Whether a move has carried the values of these buffers over; `to_empty` does not. Gives them their dtypes back."""
    for name, old in before.items():
        new: Any = buffers[name]
        if new.dtype is not old.dtype:  # by `Module.type`, which casts indices, too, and may round them
            buffers[name] = new = old.to(new.device)
        if new is old or new.is_meta or is_fake([new]):
            continue
        if old.is_meta or not torch.equal(old.to(new.device), new):
            return False
    return True


def _is_sharded(weight: Any) -> bool:
    """Whether it is a part of a weight that FSDP2 has split among ranks."""
    return hasattr(weight, "device_mesh")


def _seed(weight: Any) -> int:
    """PyTorch's next random number; of a sharded weight the first rank's, as all ranks must have one pattern."""
    seed = torch.randint(2**62, (), device="cpu")
    if _is_sharded(weight):
        seed = seed.to(weight.device_mesh.device_type)
        for group in weight.device_mesh.get_all_groups():
            dist.broadcast(seed, dist.get_global_rank(group, 0), group)
    return int(seed)
