"""Models that a wrapper already manages: it would go on with the parameters that a conversion takes out of the model."""

from __future__ import annotations

from torch import nn

# They keep lists of parameters, to synchronise or shard them. By name: importing FSDP takes long, and one is not PyTorch's.
WRAPPERS = {"DistributedDataParallel", "DDP", "FullyShardedDataParallel", "FSDPModule", "ReplicateModule", "DeepSpeedEngine"}


def check_unwrapped(op: str, model: nn.Module) -> None:
    """ValueError if the model, or a part of it, is wrapped for distributed training: its ranks would differ without a word."""
    for name, module in model.named_modules():
        if found := sorted(WRAPPERS & {kind.__name__ for kind in type(module).__mro__}):
            raise ValueError(
                f"{op}: expected a model that is not wrapped for distributed training, got {found[0]} at {name or 'its root'}, "
                "which would go on with the parameters that are replaced; convert the model first, then wrap it"
            )
