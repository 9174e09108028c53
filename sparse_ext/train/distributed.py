"""Data-parallel training: ranks sum gradients, so they compute the same patterns. They send hashes only, to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer

if TYPE_CHECKING:
    from .managed import ManagedLayer


def group_of(given: Any) -> dist.ProcessGroup | None:
    """The group of ranks that a user named, by itself or by a DeviceMesh; ValueError for a mesh of several dimensions."""
    if not hasattr(given, "get_group"):
        return given
    if given.ndim != 1:
        raise ValueError(
            f"process_group: expected the ranks that train one model together, got a DeviceMesh of {given.ndim} dimensions; "
            "give one of them, such as mesh['dp']"
        )
    return given.get_group()


def world_size(group: dist.ProcessGroup | None) -> int:
    """How many ranks train together; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: dist.ProcessGroup | None) -> int:
    """This process's rank."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def sum_(score: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The score, in place the sum over all ranks."""
    if world_size(group) > 1:
        dist.all_reduce(score, group=group)
    return score


def digest(layer: SparseLayer) -> bytes:
    """A hash of the pattern, and of the rule that chose it."""
    tensors = b"".join(tensor.cpu().numpy().tobytes() for tensor in layer.pattern.buffers.values())
    return hashlib.sha256(tensors + repr(layer.chosen_by).encode()).digest()


def _digest(managed: ManagedLayer) -> bytes:
    """A hash of the layer's pattern, and of what of it trains."""
    trained = managed.part.trained
    return hashlib.sha256(digest(managed.layer) + (b"" if trained is None else trained.cpu().numpy().tobytes())).digest()


def verify_agreement(layers: Sequence[ManagedLayer], step: int, group: dist.ProcessGroup | None) -> None:
    """RuntimeError, on all ranks, unless all of them have the same patterns."""
    if world_size(group) == 1:
        return
    digests = [int.from_bytes(_digest(managed)[:8], "little", signed=True) for managed in layers]
    mine = torch.tensor(digests, device=layers[0].layer.weight.device)
    everyone = [torch.empty_like(mine) for _ in range(world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    for other, theirs in enumerate(everyone):
        if not torch.equal(mine, theirs):
            first = layers[int((mine != theirs).nonzero()[0])].name
            raise RuntimeError(
                f"step {step}: expected the same pattern on all ranks, got another one on rank {other} than on rank "
                f"{dist.get_rank(group)} in layer {first!r}; do the ranks hold the same weights?"
            )


def refuse_join(wrappers: Sequence[nn.Module], methods: Sequence[Method], group: dist.ProcessGroup | None) -> None:
    """RuntimeError in DDP's `join()`, where ranks that have run out of inputs send nothing for an update."""
    for wrapper in wrappers:
        config: Any = wrapper._join_config
        joins = config.enable and not config.throw_on_early_termination
        if joins and world_size(group) > 1 and any(method.decides for method in methods):
            raise RuntimeError(
                "step(): expected ranks that take equally many steps, got a model in join(): ranks that have run out of inputs "
                "take no part in changes of the pattern; give each rank as many batches, or use "
                "join(throw_on_early_termination=True) or Static()"
            )


def refuse_local_steps(optimizers: Sequence[Any], methods: Sequence[Method], group: dist.ProcessGroup | None) -> None:
    """ValueError for post-local SGD: between two averages the ranks' weights differ, and so would their patterns."""
    local = any(kind.__name__ == "PostLocalSGDOptimizer" for optimizer in optimizers for kind in type(optimizer).__mro__)
    if local and world_size(group) > 1 and any(method.decides for method in methods):
        raise ValueError(
            "expected an optimizer that gives all ranks the same weights at every step, got PostLocalSGDOptimizer: ranks would "
            "choose different patterns, and their weights could not be averaged; use the optimizer that it wraps, or Static()"
        )


def refuse_shards(layers: Sequence[ManagedLayer], method: Method) -> None:
    """ValueError for FSDP2-sharded weights, unless the method never changes patterns: a shard alone cannot be regrown."""
    sharded = [managed.name for managed in layers if type(managed.layer.weight.data).__name__ == "DTensor"]
    if sharded and method.decides:
        raise ValueError(
            f"expected unsharded weights for {type(method).__name__}, got FSDP-sharded ones in {', '.join(sharded)}; a shard "
            "cannot be regrown: use Static() here, or DistributedDataParallel"
        )
