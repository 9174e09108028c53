"""The network of examples/digits_cnn.py: a short run of every arm, and the accuracies of methods.md 3.3 task A'."""

import functools
import statistics
from dataclasses import replace

import pytest
import torch

pytest.importorskip("sklearn")
from examples.arms import train
from examples.digits_cnn import DigitsCNN, cnn_arms

TASK = DigitsCNN()
DENSE, STATIC, SET, RIGL, STATIC_FEW, RIGL_FEW = (arm.name for arm in cnn_arms(TASK))


@functools.cache
def results(epochs, seeds):
    """{arm: the results of its seeds}."""
    torch.set_num_threads(1)
    task = replace(TASK, steps=17 * epochs)
    found = {}
    for seed in range(seeds):
        for result in train(task, cnn_arms(task), seed, lambda run: None):
            found.setdefault(result.arm, []).append(result)
    return found


def mean(arm):
    return statistics.mean(result.score for result in results(20, 3)[arm])


def test_every_arm_learns_and_costs_what_its_weights_cost():
    runs = {arm: run for arm, (run,) in results(4, 1).items()}
    assert list(runs) == [DENSE, STATIC, SET, RIGL, STATIC_FEW, RIGL_FEW]
    assert min(runs[arm].score for arm in (STATIC, SET, RIGL)) > 80  # a guess has 10
    flops = {arm: run.flops / runs[DENSE].flops for arm, run in runs.items()}
    assert flops[STATIC_FEW] < flops[RIGL_FEW] < flops[STATIC] == flops[SET] < flops[RIGL] < 0.15
    assert runs[STATIC].state_bytes < 0.15 * runs[DENSE].state_bytes
    assert runs[STATIC].index_bytes > runs[STATIC_FEW].index_bytes > runs[DENSE].index_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("arm", [STATIC, SET, RIGL])
def test_a_tenth_of_the_weights_is_within_half_a_point_of_dense(arm):
    assert mean(DENSE) >= 99.0
    assert mean(DENSE) - mean(arm) <= 0.5


@pytest.mark.slow
def test_rigl_is_ahead_of_a_static_pattern():
    """At 98 % zeros."""
    assert mean(RIGL_FEW) > mean(STATIC_FEW)
