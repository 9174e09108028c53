"""How a Sparsifier comes to growth scores: which layers keep what of an armed step, and whether it can be used."""

from __future__ import annotations

import torch
import torch.distributed as dist

from sparse_ext.methods import Growth, Method, Regrow
from sparse_ext.nn import Scores, SparseLayer
from sparse_ext.ops import Candidates

from . import ranks


def arm(
    layer: SparseLayer,
    plan: Regrow | None,
    method: Method,
    passes: int,
    sums: torch.Tensor | None,
    group: dist.ProcessGroup | None,
) -> None:
    """Asks the layer's next backward passes for what growth needs.

    One pass in one process: the gradient is streamed, nothing dense is kept. Otherwise, or if that is unknown, it is summed up.

    Args:
        plan: of the coming step. passes: how many are expected; 0: unknown. sums: the sum so far, over earlier steps.
    """
    if plan is None and method.scored_steps() == 1:
        return  # the update would leave this layer as it is
    streams = layer.pattern.STREAMS and method.scored_steps() == 1 and passes == 1 and ranks.count(group) == 1
    if streams and plan is not None and plan.growth is Growth.GRADIENT:
        layer.arm_growth(candidates=plan.grow)
    else:
        layer.arm_growth(sums)


def take(layer: SparseLayer, group: dist.ProcessGroup | None) -> Scores | None:
    """What the layer's armed passes have left; a sum also over ranks, before anyone takes its magnitude."""
    scores = layer.take_growth()
    if scores is not None and isinstance(scores.kept, torch.Tensor):
        ranks.sum_(scores.kept, group)
        ranks.sum_(scores.passes, group)
    return scores


def is_idle(scores: Scores | None, plan: Regrow) -> bool:
    """No pass came, on any rank, so nothing says where to grow."""
    return plan.growth is Growth.GRADIENT and scores is not None and int(scores.passes) == 0


def is_usable(scores: Scores | None, plan: Regrow) -> bool:
    """Whether the plan can be carried out: finite scores, and of a single pass where they were streamed."""
    if plan.growth is not Growth.GRADIENT:
        return True
    if scores is None or not scores.is_finite():
        return False
    if isinstance(scores.kept, Candidates):
        return int(scores.passes) == 1 and scores.kept.position.numel() >= plan.grow
    return True
