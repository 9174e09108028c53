"""count_flops(model, sparsifier): against numbers worked out by hand, against what real steps execute, and the paper's."""

from dataclasses import dataclass, replace

import pytest
import torch
from densities import Smallest, Steps
from torch import nn
from training import CHANGING, PACKED, batch, method_named, mlp

import sparse_ext as sx
from examples.resnet import resnet50
from sparse_ext.methods import Action, LayerNumbers, Layers, Method
from sparse_ext.train.changes import CHANGES
from sparse_ext.train.planned import in_proportion
from sparse_ext.train.work import EFFECTS


def sparsifier_of(model, method, total_steps=20):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return optimizer, sx.Sparsifier(model, optimizer, method, total_steps=total_steps)


def two(method, total_steps=20, **kwargs):
    """20 x 10 with 60 weights, then a dense layer 5 x 20."""
    model = nn.Sequential(sx.SparseLinear(10, 20, sparsity=0.7, **kwargs), nn.ReLU(), nn.Linear(20, 5))
    return model, *sparsifier_of(model, method, total_steps)


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


def test_what_depends_on_values_is_shared_in_proportion():
    """Of the 9 smallest of 60 + 30 weights, 6 and 3; they are there in the first 4 steps of 10."""
    model = nn.Sequential(sx.SparseLinear(10, 20, sparsity=0.7), sx.SparseLinear(20, 5, sparsity=0.7))
    _, sparsifier = sparsifier_of(model, Smallest(count=9), 10)
    assert [row.density.planned for row in sx.count_flops(model, sparsifier).layers] == [564 / 2000, 282 / 1000]


def test_in_proportion():
    assert in_proportion({"a": 3, "b": 3, "c": 3}, 4) == {"a": 2, "b": 1, "c": 1}
    assert in_proportion({"a": 1, "b": 9}, 9) == {"a": 1, "b": 8}
    assert in_proportion({"a": 0, "b": 7}, 7) == {"a": 0, "b": 7}
    with pytest.raises(ValueError, match="expected a count between 0 and 7"):
        in_proportion({"a": 7}, 8)


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


def test_a_frozen_weights_gradient_does_not_count():
    model, _, sparsifier = two(sx.Static())
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    rows = sx.count_flops(model, sparsifier).layers
    assert [row.training.planned for row in rows] == [4 * 60, 4 * 100]
    assert [row.dense_training for row in rows] == [4 * 200, 4 * 100]


# ---- tokens --------------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Convolutions, one of them used twice, an embedding, attention and dropout."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.conv = sx.SparseConv2d(4, 8, 3, stride=2, padding=1, groups=2, sparsity=0.5)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.twice = sx.SparseConv1d(8, 8, 3, padding=1, sparsity=0.5)
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(3, 3)
        self.head = sx.SparseLinear(8, 2, sparsity=0.5)

    def forward(self, image, *, words):
        x = self.drop(self.norm(self.conv(image))).flatten(2)
        x = self.twice(self.twice(x))
        self.up(x)
        x = x.transpose(1, 2) + self.embedding(words)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_tokens_are_the_pixels_of_the_output():
    """Images 6 x 10 become 3 x 5 = 15 pixels, of 2 images 30."""
    model = Everything()
    _, sparsifier = sparsifier_of(model, sx.Static())
    inputs = {"image": torch.randn(2, 4, 6, 10), "words": torch.zeros(2, 15, dtype=torch.long)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, hooks = torch.get_rng_state(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    flops = sx.count_flops(model, sparsifier, inputs)
    rows = {row.name: row for row in flops.layers}
    assert {name: row.tokens for name, row in rows.items()} == {
        "conv": 30, "twice": 60, "up": 30, "head": 30, "other products": None
    }  # fmt: skip
    assert rows["conv"].forward.planned == 2 * 30 * model.conv.nnz
    assert rows["conv"].dense_forward == 2 * 30 * 8 * 2 * 9
    assert rows["up"].forward.planned == 2 * 30 * 8 * 4 * 2
    # Attention: four projections of 8 x 8, and q k^T and its product with v, of 15 tokens with 15, 8 wide.
    assert rows["other products"].forward.planned == 2 * 30 * 4 * 64 + 2 * 2 * 2 * 15 * 15 * 8
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.backends.mha.get_fastpath_enabled()


def test_wrappers_do_not_matter():
    model, _, sparsifier = two(sx.Static())
    x = torch.randn(4, 10)
    torch._dynamo.reset()
    assert sx.count_flops(torch.compile(model, backend="eager"), sparsifier, x) == sx.count_flops(model, sparsifier, x)


def test_a_forward_pass_that_fails_leaves_no_hook():
    model, _, sparsifier = two(sx.Static())
    with pytest.raises(ValueError, match="expected x with 10 columns"):
        sx.count_flops(model, sparsifier, torch.randn(4, 11))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model)
    assert torch.is_grad_enabled()


def test_resnet50_as_in_the_paper():
    """Evci et al. 2020, table 1: with ERK at 90 %, inference costs 0.24 of 8.2 GFLOPs, training 0.25 of three times that."""
    model = sx.sparsify_(resnet50(), 0.9, layout="csr")
    _, sparsifier = sparsifier_of(model, sx.RigL(update_interval=100), 3200)
    flops = sx.count_flops(model, sparsifier, torch.randn(1, 3, 224, 224)).model
    assert flops.dense_forward == pytest.approx(8.2e9, rel=0.01)
    assert flops.forward_share.planned == pytest.approx(0.24, abs=0.007)
    assert flops.training_share.planned == pytest.approx(0.25, abs=0.007)


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


# ---- the table, and what is refused ---------------------------------------------------------------------------------


def test_it_is_a_table():
    model, _, sparsifier = two(sx.Static())
    head, names, first, second, sparse, whole, unit = str(sx.count_flops(model, sparsifier, torch.randn(500, 10))).splitlines()
    assert head.split() == ["density", "forward", "training", "forward/dense", "training/dense"]
    assert names.split() == ["layer", "tokens"] + 5 * ["planned", "executed"]
    assert " ".join(first.split()) == "0 500 30.00% - 60 k 60 k 180 k - 30.00% 30.00% 30.00% -"
    assert " ".join(second.split()) == "2 500 100.00% 100.00% 100 k 100 k 300 k 300 k 100.00% 100.00% 100.00% 100.00%"
    assert " ".join(sparse.split()).startswith("sparse layers 30.00% - 60 k")
    assert " ".join(whole.split()).startswith("whole model 53.33% - 160 k")
    assert unit == "FLOPs of this batch; training: of one step, as planned for 20, as executed in 0"


def test_what_is_refused():
    model, _, sparsifier = two(sx.Static())
    with pytest.raises(ValueError, match="expected the model that the Sparsifier trains, got one without its 0"):
        sx.count_flops(two(sx.Static())[0], sparsifier)
    with pytest.raises(ValueError, match="expected a Sparsifier together with inputs, got none"):
        sx.count_flops(model, inputs=torch.randn(4, 10))
    images = nn.Sequential(sx.SparseConv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"expected inputs=..., a batch, for a model with convolutions \(0\)"):
        sx.count_flops(images, sparsifier_of(images, sx.Static())[1])

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), sx.SparseLinear(4, 4)

        def forward(self, x):
            return self.used(x)

    aside = Aside()
    with pytest.raises(ValueError, match="reaches the sparse layers, got some that reach none"):
        sx.count_flops(aside, sparsifier_of(aside, sx.Static())[1], torch.randn(2, 4))


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
