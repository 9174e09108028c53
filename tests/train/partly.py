"""Scenarios of ranks.py: parts of layers are frozen alike on all ranks, and DDP waits for no gradient that never comes."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import OPTIMIZERS, batch, mlp

import sparse_ext as sx


def trained(by, layout, rank):
    """After steps on batches of its own for each rank: what trains, all weights, and the norms of gradients."""
    inner = mlp(layout=layout) if layout != "plain" else sx.densify_(mlp())
    model = DDP(inner)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sat = sx.SAT(granularity=by, update_interval=4)
    method = sx.Together(sx.RigL(update_interval=3, t_end=1.0), sat) if layout == "csr" else sat
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=30)
    norms = []
    for step in range(1, 12):
        x, y = batch(step + 100 * rank)
        nn.functional.cross_entropy(model(x), y).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    parts = [managed.part.trained.tolist() for managed in sparsifier._layers]
    return parts, [p.tolist() for p in inner.parameters()], norms


def freezing(rank):
    """{how: what `trained` returns}."""
    return {
        f"{by} {layout}": trained(by, layout, rank)
        for by in ("element", "row", "layer")
        for layout in ("plain", "csr", "masked")
    }


def one_rank_skips_scoring(rank):
    """A gradient that is not finite on one rank is so on all: all postpone."""
    model = DDP(sx.densify_(mlp()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sx.Sparsifier(model, optimizer, sx.SAT(update_interval=2), total_steps=30)
    found = []
    for step in range(1, 5):
        x, y = batch(step)
        scale = float("inf") if (step, rank) == (2, 1) else 1.0
        (nn.functional.cross_entropy(model(x), y) * scale).backward()
        if all(p.grad.isfinite().all() for p in model.parameters()):  # as a GradScaler does
            optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        found.append(sparsifier.report().updates)
    return found


SCENARIOS = (freezing, one_rank_skips_scoring)
