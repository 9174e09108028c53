"""count_flops(model, sparsifier): against numbers worked out by hand, and against what real steps execute."""

from dataclasses import dataclass, replace

import pytest
import torch
from densities import Smallest, Steps, sparsifier_of, two
from torch import nn
from training import CHANGING, PACKED, batch, method_named, mlp, run

import sparse_ext as sx
from sparse_ext import train
from sparse_ext.methods import Action, DropAndGrow, LayerNumbers, Layers, Method, Regrow, Switch
from sparse_ext.train.changes import CHANGES
from sparse_ext.train.flops.work import EFFECTS

# ---- by hand -------------------------------------------------------------------------------------------------------


def test_static_by_hand():
    """For 4 tokens: 2 * 4 * 60 and 2 * 4 * 100 forward, and three times as much in a training step."""
    model, _, sparsifier = two(sx.Static())
    flops = sx.count_flops(model, sparsifier, torch.randn(2, 2, 10))
    sparse, dense = flops.layers
    assert (sparse.name, sparse.tokens, sparse.size, sparse.density) == ("0", 4, 200, (0.3, None))
    assert (sparse.forward, sparse.training) == ((480, 480), (1440, None))
    assert (sparse.dense_forward, sparse.dense_training) == (1600, 4800)
    assert (dense.name, dense.forward, dense.training) == ("2", (800, 800), (2400, 2400))
    assert flops.sparse.training_share == (0.3, None)
    assert flops.model.forward_share == (1280 / 2400, 1280 / 2400)
    assert flops.model.density.planned == 160 / 300


def test_without_inputs_each_linear_layer_has_one_token():
    model, _, sparsifier = two(sx.Static())
    flops = sx.count_flops(model, sparsifier)
    assert [row.training.planned for row in flops.layers] == [6 * 60, 6 * 100]
    assert flops.one_token
    assert "FLOPs of one token for each layer" in str(flops)


def test_where_nothing_grows_no_dense_gradient_is_computed():
    """Of 60 weights 1 % are none: RigL's update leaves the layer out."""
    method = sx.RigL(update_interval=2, drop_fraction=0.01, t_end=1.0)
    model, _, sparsifier = two(method)
    assert sx.count_flops(model, sparsifier).layers[0].training.planned == 6 * 60


@pytest.mark.parametrize("interval", [1, 5, 50])
def test_rigl_is_the_papers_formula(interval):
    """(3 f_S dT + 2 f_S + f_D) / (dT + 1) (Evci et al. 2020, appendix H): one in dT + 1 steps computes the dense gradient."""
    method = sx.RigL(update_interval=interval + 1, t_end=10**6, drop_fraction=0.1)
    model, _, sparsifier = two(method, total_steps=3 * (interval + 1))
    sparse, dense = 2 * 60, 2 * 200
    row = sx.count_flops(model, sparsifier).layers[0]
    assert row.training.planned == pytest.approx((3 * sparse * interval + 2 * sparse + dense) / (interval + 1), rel=1e-12)
    assert row.density.planned == 0.3


def test_rigl_over_several_gradient_steps():
    """Updates at 4, 8 and 12, each with 3 observed steps, of 16."""
    method = sx.RigL(update_interval=4, t_end=13, gradient_steps=3)
    model, _, sparsifier = two(method, total_steps=16)
    assert sx.count_flops(model, sparsifier).layers[0].training.planned == 2 * (16 * 180 + 9 * 140) / 16


def test_fst_by_hand():
    """Half of all three products; in the dense tail, the last quarter, all of them."""
    model = nn.Sequential(sx.SparseLinear(8, 16, layout="2:4"))
    for method, of_weight in ((sx.FST(dense_tail=0.25), 64), (sx.FST(dense_tail=0.25, mvue=False), 128)):
        _, sparsifier = sparsifier_of(model, method, 40)
        (row,) = sx.count_flops(model, sparsifier).layers
        assert row.density.planned == (30 * 0.5 + 10) / 40
        assert row.training.planned == 2 * (30 * (64 + 64 + of_weight) + 10 * 3 * 128) / 40
        assert row.forward.planned == 2 * 128  # of the dense model that it ends with


@pytest.mark.parametrize(
    ("method", "entries"),
    [
        (sx.SRSTE(), (64, 128, 128)),
        (sx.SRSTE(mvue=True), (64, 128, 64)),
        (sx.SSTE(), (64, 128, 64)),
        (sx.Static(), (64, 128, 128)),
    ],
    ids=["SRSTE", "SRSTE mvue", "SSTE", "packed"],
)
def test_two_of_four_by_hand(method, entries):
    """As sparse_ext/methods/nm24.py says."""
    model = nn.Sequential(sx.SparseLinear(8, 16, layout="2:4"))
    _, sparsifier = sparsifier_of(model, method)
    assert sx.count_flops(model, sparsifier).layers[0].training.planned == 2 * sum(entries)


def test_a_density_that_changes_by_hand():
    """60 weights, 5 more after every second step of 8: 60, 60, 65, 65, 70, 70, 75, 75, and 80 in the end."""
    model, optimizer, sparsifier = two(Steps(5), total_steps=8)
    x = torch.randn(3, 10)
    (row, _) = sx.count_flops(model, sparsifier, x).layers
    assert row.density == (270 / 4 / 200, None)
    assert row.training == (3 * 2 * 3 * 270 / 4, None)
    assert row.forward == (2 * 3 * 80, 2 * 3 * 60)
    for _ in range(3):
        model(x).sum().backward()
        optimizer.step()
        sparsifier.step()
    (row, _) = sx.count_flops(model, sparsifier, x).layers
    assert row.density == (270 / 4 / 200, 185 / 3 / 200)  # the plan starts at the run's beginning, wherever that is by now
    assert row.training.executed == 3 * 2 * 3 * 185 / 3
    assert row.forward == (2 * 3 * 80, 2 * 3 * 65)


def test_a_plan_sees_what_it_has_changed():
    """csr with 0.3, dense from step 3 on, csr again from step 5 on, with all positions, of which one in ten goes."""

    @dataclass(frozen=True)
    class Phases(Method):
        changes_density = True

        def is_update(self, time):
            return time.step in (2, 4, 5)

        def plan(self, layers, time):
            if time.step == 5:
                return {name: Regrow(one.nnz // 10, 0) for name, one in layers.items()}
            if time.step not in (2, 4):
                return {}
            assert layers["0"].layout == {2: "csr", 4: "dense"}[time.step]
            return dict.fromkeys(layers, Switch("dense" if time.step == 2 else "csr"))

    model, optimizer, sparsifier = two(Phases(), total_steps=6)
    x = torch.randn(3, 10)
    for _ in range(6):
        model(x).sum().backward()
        optimizer.step()
        sparsifier.step()
    (row, _) = sx.count_flops(model, sparsifier, x).layers
    assert row.density.planned == row.density.executed == pytest.approx((2 * 60 + 3 * 200 + 180) / 1200)
    assert row.training.planned == row.training.executed == 3 * 2 * 3 * (2 * 60 + 3 * 200 + 180) / 6


def test_what_depends_on_values_is_shared_in_proportion():
    """Of the 9 smallest of 60 + 30 weights, 6 and 3; they are there in the first 4 steps of 10."""
    model = nn.Sequential(sx.SparseLinear(10, 20, sparsity=0.7), sx.SparseLinear(20, 5, sparsity=0.7))
    _, sparsifier = sparsifier_of(model, Smallest(count=9), 10)
    assert [row.density.planned for row in sx.count_flops(model, sparsifier).layers] == [564 / 2000, 282 / 1000]


@pytest.mark.parametrize("steps", [1, 2])
def test_signals_that_only_read_the_layer_cost_no_dense_gradient(steps):
    """Neither as planned nor as executed."""

    class Small(train.Signal):
        name, OBSERVES = "small", False

        def score(self):
            return -self.layer.weight().abs()

    @dataclass(frozen=True)
    class Blind(DropAndGrow):
        signals = (Small,)
        grow_by = "small"

        def observed_steps(self):
            return steps

    model, optimizer, sparsifier = two(Blind(update_interval=2, t_end=1.0), total_steps=6)
    x, flops = torch.randn(3, 10, requires_grad=True), 0
    for _ in range(6):
        flops += sx.count_flops(lambda: model(x).sum().backward())
        optimizer.step()
        sparsifier.step()
    rows = sx.count_flops(model, sparsifier, x)
    assert sparsifier.report().updates == 2
    assert rows.layers[0].training == (3 * 2 * 3 * 60, 3 * 2 * 3 * 60)
    assert rows.model.training.executed == flops / 6


def test_methods_by_name_are_planned_each():
    model = nn.Sequential(sx.SparseLinear(10, 20, sparsity=0.7), sx.SparseLinear(20, 5, sparsity=0.7))
    _, sparsifier = sparsifier_of(model, {"0": Steps(5), "1": sx.Static()}, 8)
    assert [row.density.planned for row in sx.count_flops(model, sparsifier).layers] == [270 / 4 / 200, 0.3]


# ---- what is executed ----------------------------------------------------------------------------------------------


EXACT = [(name, layout) for name, layout in dict.fromkeys(PACKED + CHANGING) if layout in ("csr", "2:4")]


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize(("name", "layout"), EXACT)
def test_executed_is_what_the_kernels_compute(name, layout, micro):
    """Of real steps, by torch's counter; x needs a gradient, as that of a first layer is counted, too."""
    model = mlp(layout=layout, method=name)
    method = method_named(name, update_interval=4, refresh_interval=3, t_end=1.0, gradient_steps=2, dense_tail=0.25)
    optimizer, sparsifier = sparsifier_of(model, method, 12)
    flops = 0
    for step in range(1, 13):
        x, y = batch(step)
        x.requires_grad_()
        for part, wanted in zip(x.chunk(micro), y.chunk(micro), strict=True):
            flops += sx.count_flops(lambda: nn.functional.cross_entropy(model(part), wanted).backward())  # noqa: B023
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert sx.count_flops(model, sparsifier, batch(1)[0]).model.training.executed == pytest.approx(flops / 12, rel=1e-12)


@pytest.mark.parametrize(("name", "layout"), EXACT)
def test_runs_go_as_planned(name, layout):
    """And the plan is the same when the run is over."""
    model = mlp(layout=layout, method=name)
    method = method_named(name, update_interval=4, refresh_interval=3, t_end=1.0, dense_tail=0.25)
    optimizer, sparsifier = sparsifier_of(model, method, 12)
    before = sx.count_flops(model, sparsifier)
    run(model, optimizer, sparsifier, range(1, 13))
    now = sx.count_flops(model, sparsifier)
    for row, first in zip(now.layers, before.layers, strict=True):
        assert (row.density.planned, row.training.planned) == (first.density.planned, first.training.planned)
    # What depends on values, as SRigL's rows, comes near.
    assert now.sparse.density.planned == pytest.approx(now.sparse.density.executed, rel=0.05)
    assert now.sparse.forward.planned == pytest.approx(now.sparse.forward.executed, rel=0.1)


def test_a_frozen_weights_gradient_does_not_count():
    model, _, sparsifier = two(sx.Static())
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    rows = sx.count_flops(model, sparsifier).layers
    assert [row.training.planned for row in rows] == [4 * 60, 4 * 100]
    assert [row.dense_training for row in rows] == [4 * 200, 4 * 100]


# ---- a method of one's own ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Freeze(Action):
    """Only this share of the weights gets a gradient."""

    share: float


@dataclass(frozen=True)
class Freezing(Method):
    def is_update(self, time):
        return time.step == 2

    def plan(self, layers, time):
        return dict.fromkeys(layers, Freeze(0.25)) if time.step == 2 else {}


def test_an_action_of_ones_own_has_a_row(monkeypatch):
    """EFFECTS says what it does to the layer's work; plan and execution count it so."""
    nothing = torch.zeros((), dtype=torch.int64)
    monkeypatch.setitem(CHANGES, Freeze, lambda managed, action, seed: (nothing, nothing))
    monkeypatch.setitem(EFFECTS, Freeze, lambda work, action: replace(work, weight_share=action.share))
    model, optimizer, sparsifier = two(Freezing(), total_steps=4)
    for _ in range(3):
        model(torch.randn(3, 10)).sum().backward()
        optimizer.step()
        sparsifier.step()
    state = sparsifier.state_dict()
    for one in (sparsifier, two(Freezing(), total_steps=4)[2]):
        one.load_state_dict(state)
    row = sx.count_flops(model, sparsifier).layers[0]
    assert row.training == (2 * (4 * 120 + 2 * 60 + 2 * 15) / 4, 2 * (3 * 120 + 2 * 60 + 15) / 3)


def test_the_plan_sees_numbers_alone():
    """All that a method may ask for, and nothing that a layer has to be read for."""
    seen = []

    @dataclass(frozen=True)
    class Asking(Method):
        signals = ("gradient",)

        def is_update(self, time):
            return time.step == 1

        def plan(self, layers, time):
            one = layers["0"]
            assert isinstance(one, LayerNumbers)
            seen.append((one.rows, one.cols, one.nnz, one.end, one.shape, one.positions, one.layout, one.dense_weight))
            seen.append((one.total("gradient"), one.total_in_use("gradient"), isinstance(layers, Layers)))
            return {}

    model, _, sparsifier = two(Asking())
    seen.clear()
    sx.count_flops(model, sparsifier)
    assert seen == 2 * [(20, 10, 60, 60, (20, 10), 200, "csr", False), (200.0, 60.0, True)]  # at steps 0 and 1
