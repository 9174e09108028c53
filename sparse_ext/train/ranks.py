"""Several processes that train one model: they add up scores, never send patterns, and compare hashes."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist

from sparse_ext.methods import Method
from sparse_ext.nn import SparseLayer


def count(group: dist.ProcessGroup | None) -> int:
    """How many ranks train together; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def own(group: dist.ProcessGroup | None) -> int:
    """This process's rank."""
    return dist.get_rank(group) if count(group) > 1 else 0


def sum_(score: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The score, in place the sum over all ranks."""
    if count(group) > 1:
        dist.all_reduce(score, group=group)
    return score


def digest(layer: SparseLayer) -> bytes:
    """A hash of the pattern in use."""
    return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in layer.pattern.identity())).digest()


def verify_agreement(layers: dict[str, SparseLayer], step: int, group: dist.ProcessGroup | None) -> None:
    """RuntimeError, on all ranks, unless all of them have the same patterns."""
    if count(group) == 1:
        return
    device = next(iter(layers.values())).weight.device
    digests = [int.from_bytes(digest(layer)[:8], "little", signed=True) for layer in layers.values()]
    mine = torch.tensor(digests, device=device)
    everyone = [torch.empty_like(mine) for _ in range(count(group))]
    dist.all_gather(everyone, mine, group=group)
    for rank, theirs in enumerate(everyone):
        if not torch.equal(mine, theirs):
            first = list(layers)[int((mine != theirs).nonzero()[0])]
            raise RuntimeError(
                f"step {step}: expected the same pattern on all ranks, got another one on rank {rank} than on rank "
                f"{dist.get_rank(group)} in layer {first!r}; do the ranks hold the same weights?"
            )


def refuse_shards(layers: dict[str, SparseLayer], method: Method) -> None:
    """FSDP2 trains sharded sparse weights, but a shard alone cannot be regrown: ValueError."""
    sharded = [name for name, layer in layers.items() if type(layer.weight.data).__name__ == "DTensor"]
    if sharded and method.is_update.__func__ is not Method.is_update:  # type: ignore[attr-defined]
        raise ValueError(
            f"expected unsharded weights for {type(method).__name__}, got FSDP-sharded ones in {', '.join(sharded)}; a shard "
            "cannot be regrown: use Static() here, or DistributedDataParallel"
        )
