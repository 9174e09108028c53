"""What SAT chooses: exact shares, of the largest importance that hysteresis favours; layers by their mean."""

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.methods import Freeze, LayerNumbers, Time
from sparse_ext.train.trained_part import TrainedPart

H = 0.2


def layer_of(layout):
    torch.manual_seed(0)
    dense = nn.Linear(16, 12)
    sparsity = {"dense": 0.0, "2:4": 0.5}.get(layout, 0.7)
    return sx.SparseLinear.from_dense(dense, sparsity=sparsity, layout=layout, capacity=0.4 if layout == "csr" else None)


@pytest.mark.parametrize("active", [0.01, 0.25, 0.38, 1.0])
@pytest.mark.parametrize("by", ["element", "row"])
@pytest.mark.parametrize("layout", ["dense", "csr", "masked", "2:4"])
def test_shares_are_exact(layout, by, active):
    layer = layer_of(layout)
    part, used = TrainedPart(layer), layer.slots() >= 0
    row = layer.slots().clamp(min=0) // 16
    counts = torch.bincount(row[used], minlength=12)
    for _ in range(4):
        before = part.trained
        part.importance = torch.rand(layer.capacity) * used
        part.freeze(Freeze(active, by, H))
        trained, score = part.trained, part.importance
        if by == "element":
            assert int(trained[used].sum()) == max(1, round(active * int(used.sum())))
            assert not trained[~used].any()
            trained, before = trained[used], None if before is None else before[used]
            score = score[used]
        else:
            score = torch.zeros(12).index_add_(0, row, score) / counts.clamp(min=1)
            assert 1 <= trained.sum() <= 12
            off = abs(int(counts[trained].sum()) - active * int(used.sum()))
            assert trained.sum() == 1 or off <= counts.max() / 2
        if before is not None:
            score = score / torch.where(before, 1 - H, 1 + H)
        assert trained.all() or score[trained].min() >= score[~trained].max()


def numbers(count, total, share=1.0):
    return LayerNumbers(
        rows=count, cols=1, capacity=count, layout="dense", dense_weight=False,
        count=lambda: count, total=lambda name: total, share=lambda: share,
    )  # fmt: skip


def chosen(layers, active, step=500):
    method = sx.SAT(active=active, granularity="layer", hysteresis=H)
    plan = method.plan(layers, Time(step, 1000))
    assert {action.by for action in plan.values()} == {"layer"}
    return [name for name, action in plan.items() if action.trained]


def test_layers_by_their_mean():
    layers = {"a": numbers(100, 100.0), "b": numbers(50, 100.0), "c": numbers(50, 300.0)}  # means 1, 2, 6
    assert chosen(layers, 0.3) == ["c"]  # 50 of 200; 60 are asked for
    assert chosen(layers, 0.4) == ["b", "c"]  # 100 are nearer to 80 than 50
    assert chosen(layers, 1.0) == ["a", "b", "c"]
    assert chosen(layers, 0.01) == ["c"]
    assert chosen({"a": numbers(9, 1.0), "b": numbers(9, 1.0)}, 0.5) == ["a"]  # of equal ones the first


def test_layers_that_train_are_favoured():
    """Frozen b has a mean of 1.4 against 1: it thaws from 1.2 / 0.8 = 1.5 times on."""
    layers = {"a": numbers(10, 10.0), "b": numbers(10, 14.0, share=0.0)}
    assert chosen(layers, 0.5) == ["a"]
    assert chosen({**layers, "b": numbers(10, 16.0, share=0.0)}, 0.5) == ["b"]


def test_when_it_chooses():
    method = sx.SAT(update_interval=3)
    assert [step for step in range(10) if method.is_update(Time(step, 10))] == [3, 6, 9]
    assert method.plan({"a": numbers(9, 1.0)}, Time(0, 10)) == {}
    assert method.plan({"a": numbers(9, 1.0)}, Time(3, 10)) == {"a": Freeze(0.3, "element", 0.1)}
