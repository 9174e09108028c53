"""SRigL equals a dense model under a mask, step by step: reference/methods.md 2.6 once more, row by row."""

import math

import pytest
import torch
from masked import NETWORKS, OPTIMIZERS, MaskedTraining, compare, mask_of, ranked

import sparse_ext as sx

STEPS, INTERVAL, ALPHA, T_END = 80, 4, 0.4, 0.75
CHOICES = {"drop_fraction": ALPHA, "update_interval": INTERVAL, "t_end": T_END}


class SRigL(MaskedTraining):
    GAMMA, DENSE, LAST = 0.3, False, False

    def update(self, step, gradients):
        if step % INTERVAL or step >= T_END * STEPS:
            return
        for name, gradient in gradients.items():
            self.change(name, self.chosen(step, name, gradient.flatten(1)).view_as(gradient))

    def chosen(self, step, name, gradient):
        weight, mask = self.weight(name).flatten(1).abs(), self.masks[name].flatten(1)
        nnz, target, (rows, cols) = int(mask.sum()), self.targets[name], mask.shape
        k = math.floor(ALPHA / 2 * (1 + math.cos(math.pi * step / (T_END * STEPS))) * nnz)
        if not k:
            return self.masks[name]
        everywhere = torch.ones_like(mask)
        best = mask_of(ranked(weight, mask)[: nnz - k], mask) | mask_of(ranked(gradient.abs(), everywhere)[:k], mask)
        salient = best.sum(1).tolist()
        fan_in = cols if self.DENSE else target / int(mask.any(1).sum())
        exempt = self.GAMMA is None or (not self.LAST and name == list(self.masks)[-1])
        enough = 0 if exempt else max(1, self.GAMMA * fan_in)
        count = min(max(sum(one >= enough for one in salient), math.ceil(target / cols)), target)
        use = sorted(sorted(range(rows), key=lambda row: (-salient[row], row))[:count])
        each = math.floor(target / count + 0.5)
        stay = ranked(weight, mask & torch.tensor([row in use for row in range(rows)])[:, None])[: nnz - k]
        new = torch.zeros_like(mask)
        for row in use:
            mine = [at % cols for at in stay if at // cols == row][:each]  # the largest are first
            new[row, mine] = True
            others = sorted(set(range(cols)) - set(mine), key=lambda col: (-float(gradient[row, col].abs()), col))
            new[row, others[: each - len(mine)]] = True
        return new


class OfDense(SRigL):
    GAMMA, DENSE, LAST = 0.1, True, True


class Without(SRigL):
    GAMMA = None


VARIANTS = {
    "constant": (SRigL, {}),
    "dense": (OfDense, {"salient": 0.1, "fan_in": "dense", "ablate_last": True}),
    "without": (Without, {"salient": None}),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_pattern_sequence_equals_a_masked_dense_model(variant, optimizer, network):
    definition, choices = VARIANTS[variant]
    method = sx.SRigL(**CHOICES, **choices)
    _, sparsifier, masked, history = compare(method, definition, network=network, optimizer=optimizer, steps=STEPS)
    assert len(set(history)) > 10
    for row in sparsifier.report().layers:
        counts = masked.masks[row.name].flatten(1).sum(1)
        assert counts[counts > 0].unique().numel() == 1
        assert row.ablated == int((counts == 0).sum())
        assert 2 * abs(row.nnz - masked.targets[row.name]) <= row.shape[0]
    if variant != "constant":
        assert any(row.ablated for row in sparsifier.report().layers) == (variant == "dense")


@pytest.mark.parametrize("layout", ["auto", "masked"])
def test_other_layouts(layout):
    compare(sx.SRigL(**CHOICES), SRigL, steps=STEPS, layout=layout)
