"""FLOPs of three layers, linear and convolutional, worked out by hand: by product, method and schedule.

Every layer has d of D positions in the end, half of them, in a run of 8 steps. A row of HAND says what each product costs in
all steps together, in entries for each token.
"""

from typing import Any, NamedTuple

import pytest
import torch
from densities import sparsifier_of
from torch import nn

import sparse_ext as sx
from sparse_ext.train.flops.planned import planned

STEPS = 8


class Hand(NamedTuple):
    """entries: (D, d) -> of forward product, input gradient and weight gradient, in all steps together.

    observed: (D, d) -> of each step that computes the dense gradient for growth, what the sparse one costs beside it.
    """

    method: Any
    entries: Any
    observed: Any = lambda D, d: ()
    layout: str = "csr"


def same(entries):
    """All three products cost the same."""
    return lambda D, d: 3 * (entries(D, d),)


def steps(count):
    """So many observed steps, at density d."""
    return lambda D, d: count * (d,)


HAND = {
    "static": Hand(sx.Static(), same(lambda D, d: 8 * d)),
    "set": Hand(sx.SET(update_interval=2), same(lambda D, d: 8 * d)),
    # Updates at 2, 4 and 6.
    "rigl": Hand(sx.RigL(update_interval=2, t_end=1.0), lambda D, d: (8 * d, 8 * d, 5 * d + 3 * D), steps(3)),
    "rigl, two steps each": Hand(
        sx.RigL(update_interval=4, t_end=1.0, gradient_steps=2),
        lambda D, d: (8 * d, 8 * d, 6 * d + 2 * D),
        steps(2),
    ),
    "srigl": Hand(sx.SRigL(update_interval=2, t_end=1.0, salient=None), lambda D, d: (8 * d, 8 * d, 5 * d + 3 * D), steps(3)),
    # The momentum of steps 1 to 6, the last update's.
    "snfs": Hand(sx.SNFS(update_interval=2, redistribute=False), lambda D, d: (8 * d, 8 * d, 2 * d + 6 * D), steps(6)),
    "mest": Hand(sx.MEST(update_interval=2), same(lambda D, d: 8 * d)),
    # Half as many again after the updates at 2 and 4, until the one at 6.
    "mest, soft": Hand(
        sx.MEST(update_interval=2, mutation=(0.5,), until=(0.75,), soft=True), same(lambda D, d: 4 * d + 4 * (d + d // 2))
    ),
    "chts": Hand(sx.CHTs(update_interval=2, t_end=1.0), same(lambda D, d: 8 * d)),
    # Dense until the decay ends, with step 3.
    "chtss": Hand(sx.CHTss(t_end=0.5, first_density=1.0), same(lambda D, d: 3 * D + 5 * d)),
    # Dense for 4 steps, then 1/8 of the way from d to D for 2.
    "gmp": Hand(
        sx.GMP(t_start=2, t_end=6, update_interval=2), same(lambda D, d: 4 * D + 2 * round((0.5 + 0.5 / 8) * D) + 2 * d)
    ),
    # Dense for 2 steps, the second one an update; others at 4 and 6.
    "granet": Hand(
        sx.GraNet(update_interval=2, initial_sparsity=0.0, ramp_end=2),
        lambda D, d: (2 * D + 6 * d, 2 * D + 6 * d, 4 * D + 4 * d),
        lambda D, d: (D, d, d),
    ),
    "ac/dc": Hand(sx.ACDC(t_start=2, t_end=6, update_interval=2), same(lambda D, d: 4 * D + 4 * d)),
    # Phases of 3, 2 and 3 steps.
    "est-dgm": Hand(sx.ESTDGM(cycles=1, densities=(1.0, 0.75)), same(lambda D, d: 3 * D + 2 * 3 * D // 4 + 3 * d)),
    # All train for 4 steps, a quarter for 3, and the last step is an update, which scores all.
    "sat": Hand(sx.SAT(active=0.25, update_interval=4), lambda D, d: (8 * d, 8 * d, 5 * d + 3 * round(0.25 * d))),
    "top-kast": Hand(sx.TopKAST(extra=0.25, update_interval=2), lambda D, d: (8 * d, 8 * d, 8 * (d + D // 4))),
    "sr-ste": Hand(sx.SRSTE(), lambda D, d: (8 * d, 8 * D, 8 * D), layout="2:4"),
    "s-ste": Hand(sx.SSTE(), lambda D, d: (8 * d, 8 * D, 8 * d), layout="2:4"),
    # Dense in the last two steps.
    "fst": Hand(sx.FST(refresh_interval=2, dense_tail=0.25), same(lambda D, d: 6 * d + 2 * D), layout="2:4"),
    "2:4, packed": Hand(sx.Static(), lambda D, d: (8 * d, 8 * D, 8 * D), layout="2:4"),
}

# {kind: (layers, input, (D, tokens) of each)}; a convolution's tokens are pixels of its output: of 4 images 4 x 4, 2 x 2 and 1.
NETWORKS = {
    "linear": (
        lambda: [nn.Linear(8, 24), nn.Linear(24, 8), nn.Linear(8, 8)], (4, 8), [(192, 4), (192, 4), (64, 4)]
    ),
    "conv": (
        lambda: [nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 4, 2)],
        (4, 4, 6, 6),
        [(8 * 36, 64), (8 * 8, 16), (4 * 32, 4)],
    ),
}  # fmt: skip


def made(kind, hand):
    layers, shape, sizes = NETWORKS[kind]
    model = nn.Sequential(*layers())
    sx.sparsify_(model, None if hand.layout == "2:4" else 0.5, layout=hand.layout, distribution="uniform", method=hand.method)
    return model, torch.randn(shape), sizes


def test_every_method_is_there():
    own = {name: kind for name, kind in sx.METHODS.items() if kind.__module__.startswith("sparse_ext.")}
    assert not own.keys() - HAND.keys()
    assert all(type(HAND[name].method) is kind for name, kind in own.items())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", HAND)
def test_as_planned(kind, name):
    hand = HAND[name]
    model, x, sizes = made(kind, hand)
    _, sparsifier = sparsifier_of(model, hand.method, STEPS)
    plans, rows = planned(sparsifier._groups, STEPS), sx.count_flops(model, sparsifier, x).layers
    for plan, row, (D, tokens) in zip(plans.values(), rows, sizes, strict=True):
        products = hand.entries(D, D // 2)
        assert tuple(map(int, plan.sums)) == products
        assert plan.observed == len(hand.observed(D, D // 2))
        assert (row.size, row.tokens) == (D, tokens)
        assert row.training.planned == 2 * tokens * sum(products) / STEPS
        assert row.density.planned == products[0] / (D * STEPS)
        assert row.dense_training == 6 * tokens * D


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", HAND)
def test_as_executed(kind, name):
    """By torch's counter, in real steps: a step that observes computes the sparse weight gradient, too."""
    hand = HAND[name]
    model, x, sizes = made(kind, hand)
    optimizer, sparsifier = sparsifier_of(model, hand.method, STEPS)
    flops = 0
    for _ in range(STEPS):
        x = torch.randn(x.shape, requires_grad=True)
        flops += sx.count_flops(lambda: model(x).square().sum().backward())  # noqa: B023
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    each = [2 * tokens * (sum(hand.entries(D, D // 2)) + sum(hand.observed(D, D // 2))) for D, tokens in sizes]
    assert [row.training.executed * STEPS for row in sx.count_flops(model, sparsifier, x).layers] == pytest.approx(each)
    assert flops == sum(each)
