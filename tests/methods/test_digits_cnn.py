"""The network of examples/digits_cnn.py: a short run of every arm, and the accuracies of methods.md 3.3 task A'."""

import functools
import statistics
from dataclasses import replace
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("sklearn")
from examples.arms import config_of
from examples.digits_cnn import DigitsCNN, cnn_arms
from sparse_ext.compare import compare

TASK = DigitsCNN()
DENSE, STATIC, SET, RIGL, STATIC_FEW, RIGL_FEW = (arm["name"] for arm in cnn_arms(TASK))


@functools.cache
def results(epochs, seeds):
    """{arm: the runs of its seeds}."""
    task = replace(TASK, steps=17 * epochs, seeds=seeds)
    config = config_of(task, cnn_arms(task), threads=1, idle_s=0.0, layers_s=0.0, turns=17, evaluations=1)
    with TemporaryDirectory() as folder:
        return {arm.name: arm.runs for arm in compare(config, folder=folder).arms}


def mean(arm):
    return statistics.mean(result.score for result in results(20, 3)[arm])


@pytest.mark.slow
def test_every_arm_learns_and_costs_what_its_weights_cost():
    runs = {arm: run for arm, (run,) in results(4, 1).items()}
    assert list(runs) == [DENSE, STATIC, SET, RIGL, STATIC_FEW, RIGL_FEW]
    assert min(runs[arm].score for arm in (STATIC, SET, RIGL)) > 80  # a guess has 10
    flops = {arm: run.flops / runs[DENSE].flops for arm, run in runs.items()}
    assert flops[STATIC_FEW] < flops[RIGL_FEW] < flops[STATIC] == flops[SET] < flops[RIGL] < 0.15
    memory = {arm: run.memory for arm, run in runs.items()}
    assert memory[STATIC].weights < 0.15 * memory[DENSE].weights
    assert memory[STATIC].optimizer_state < 0.15 * memory[DENSE].optimizer_state
    assert memory[STATIC].indices > memory[STATIC_FEW].indices > memory[DENSE].indices == 0


@pytest.mark.slow
@pytest.mark.parametrize("arm", [STATIC, SET, RIGL])
def test_a_tenth_of_the_weights_is_within_half_a_point_of_dense(arm):
    assert mean(DENSE) >= 99.0
    assert mean(DENSE) - mean(arm) <= 0.5


@pytest.mark.slow
def test_rigl_is_ahead_of_a_static_pattern():
    """At 98 % zeros."""
    assert mean(RIGL_FEW) > mean(STATIC_FEW)
