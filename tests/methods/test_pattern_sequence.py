"""RigL and SET equal a dense model under a mask, step by step: reference/methods.md 2.0 to 2.2 once more."""

import math

import pytest
from masked import NETWORKS, OPTIMIZERS, MaskedTraining, compare, mask_of, ranked

import sparse_ext as sx
from sparse_ext.ops import reference

STEPS, INTERVAL, ALPHA, T_END = 80, 4, 0.4, 0.75
CHOICES = {"drop_fraction": ALPHA, "update_interval": INTERVAL, "t_end": T_END}
METHODS = {"static": sx.Static(), "set": sx.SET(**CHOICES), "rigl": sx.RigL(**CHOICES)}


class Static(MaskedTraining):
    def update(self, step, gradients):
        pass


class DropAndGrow(MaskedTraining):
    def update(self, step, gradients):
        if step % INTERVAL or step >= T_END * STEPS:
            return
        for name, gradient in gradients.items():
            weight, mask = self.weight(name), self.masks[name]
            nnz = int(mask.sum())
            k = math.floor(ALPHA / 2 * (1 + math.cos(math.pi * step / (T_END * STEPS))) * nnz)
            keep = mask_of(ranked(weight.abs(), mask)[: nnz - k], mask)
            grown = ranked(self.score(name, step, gradient), ~keep)[:k]
            self.change(name, keep | mask_of(grown, mask))


class Set(DropAndGrow):
    def score(self, name, step, gradient):
        return reference.random_u32(self.stream(name, step), gradient.numel())


class RigL(DropAndGrow):
    def score(self, name, step, gradient):
        return gradient.abs()


DEFINITIONS = {"static": Static, "set": Set, "rigl": RigL}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_pattern_sequence_equals_a_masked_dense_model(name, optimizer, network):
    *_, history = compare(METHODS[name], DEFINITIONS[name], network=network, optimizer=optimizer, steps=STEPS)
    # Updates at 4, 8 ... 56; the last ones may have nothing left to replace.
    assert len(set(history)) == 1 if name == "static" else len(set(history)) > 10
