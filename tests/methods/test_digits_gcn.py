"""The graph network of examples/digits_gcn.py: its adjacency, its split, a short run of every arm, and its accuracies."""

import statistics
from dataclasses import replace

import pytest
import torch
from cases import TOLERANCE

pytest.importorskip("sklearn")
import sparse_ext as sx
from examples.arms import config_of
from examples.digits import all_digits
from examples.digits_gcn import GCN, HIDDEN, DigitsGCN, gcn_arms, neighbours
from sparse_ext.compare import compare
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import CsrPattern

TASK = DigitsGCN()


def test_the_adjacency_is_symmetric_and_normalised():
    weight, pattern = neighbours(10)
    mask = pattern.mask()
    assert torch.equal(mask, mask.t())
    assert mask.diagonal().all()
    degree = mask.sum(1)
    assert int(degree.min()) >= 11  # itself and ten others; more, where others chose it
    dense = torch.zeros(mask.shape).masked_scatter(mask, weight)
    torch.testing.assert_close(dense, mask / (degree[:, None] * degree).sqrt())


def test_neighbours_are_the_nearest():
    x, _ = all_digits()
    distance = torch.cdist(x[:1], x)[0]
    chosen = distance.topk(11, largest=False).indices
    assert neighbours(10)[1].mask()[0, chosen].all()


def test_the_network_computes_graph_convolutions():
    """Also with sparse weights."""
    torch.manual_seed(0)
    mask = torch.rand(30, 30) < 0.2
    weight = torch.randn(int(mask.sum()))
    adjacency = torch.zeros(30, 30).masked_scatter(mask, weight)
    model = GCN(weight, CsrPattern.from_mask(mask), 8, 12, 5)
    x = torch.randn(30, 8)
    for layers in (0, 2):
        assert len(sparse_layers(model)) == layers
        first, second = model.layers
        expected = adjacency @ second((adjacency @ first(x)).relu())
        torch.testing.assert_close(model(x), expected, **TOLERANCE[torch.float32])
        if not layers:
            sx.sparsify_(model, 0.5)


def test_ten_labels_of_each_class_are_known():
    (_, known), (_, others) = TASK.split(0)
    _, y = all_digits()
    assert torch.bincount(known[known != HIDDEN]).tolist() == [10] * 10
    assert torch.equal(known != HIDDEN, others == HIDDEN)
    assert torch.equal(known.where(known != HIDDEN, others), y)
    assert not torch.equal(known, TASK.split(1)[0][1])


def trained(task, folder):
    """The runs of each arm."""
    config = config_of(task, gcn_arms(task), threads=1, idle_s=0.0, layers_s=0.0, turns=12, evaluations=1)
    return [arm.runs for arm in compare(config, folder=folder).arms]


def test_every_arm_learns(tmp_path):
    runs = trained(replace(TASK, steps=24, update_interval=4, seeds=1), tmp_path)
    dense, static, set_, rigl = (run for (run,) in runs)
    assert min(run.score for run in (dense, static, set_, rigl)) > 80  # a guess has 10
    assert static.flops == set_.flops < rigl.flops < 0.4 * dense.flops


@pytest.mark.slow
def test_a_tenth_of_the_weights_is_within_one_and_a_half_points_of_dense(tmp_path):
    dense, *others = (statistics.mean(run.score for run in runs) for runs in trained(TASK, tmp_path))
    assert dense >= 95
    assert min(others) >= dense - 1.5
