"""count_flops(model, sparsifier): tokens of every kind of layer, the paper's ResNet-50, the table, and what is refused."""

from dataclasses import replace

import pytest
import torch
from densities import sparsifier_of, two
from torch import nn

import sparse_ext as sx
from examples.resnet import resnet50
from sparse_ext.methods import Action, Choose, Regrow, RegrowEvenly, Switch
from sparse_ext.ops import Linear
from sparse_ext.train.flops.planned import in_proportion
from sparse_ext.train.flops.work import Work, after


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
    with pytest.raises(ValueError, match="reaches the Sparsifier's layers, got some without any"):
        sx.count_flops(aside, sparsifier_of(aside, sx.Static())[1], torch.randn(2, 4))


def test_in_proportion():
    assert in_proportion({"a": 3, "b": 3, "c": 3}, 4) == {"a": 2, "b": 1, "c": 1}
    assert in_proportion({"a": 1, "b": 9}, 9) == {"a": 1, "b": 8}
    assert in_proportion({"a": 0, "b": 7}, 7) == {"a": 0, "b": 7}
    with pytest.raises(ValueError, match="expected a count between 0 and 7"):
        in_proportion({"a": 7}, 8)


def test_what_actions_change():
    """A layer 4 x 8 of "csr", and one with a dense weight."""
    packed, dense = Work(Linear(4, 8), "csr", None, 10), Work(Linear(4, 8), "csr", "largest", 10, home="csr", home_nnz=10)
    assert after(packed, Regrow(3, 5)) == replace(packed, nnz=12)
    assert after(packed, RegrowEvenly(3, 3, nnz=10)) == replace(packed, nnz=12)  # 2.5 a row
    assert after(packed, Switch("csr")) is packed
    assert after(packed, Switch("dense")) == replace(packed, layout="dense", nnz=32)
    assert after(packed, Switch("2:4")) == replace(packed, layout="2:4", nnz=16)
    assert after(after(packed, Switch("dense")), Switch("csr")) == replace(packed, nnz=32)
    assert after(dense, Choose("soft")) == replace(dense, rule="soft")
    assert after(dense, Switch("auto")) == replace(dense, layout="auto", rule=None, nnz=32)
    assert after(after(dense, Switch("dense")), Choose("largest")) == dense
    assert after(packed, Action()) is packed
    assert dense.entries == (10, 10, 32)
    assert replace(packed, input_share=0.5, weight_share=0.25).entries == (10, 5, 2)


@pytest.mark.parametrize("granularity", ["element", "row", "layer", "with RigL"])
def test_what_is_frozen_costs_no_weight_gradient(granularity):
    """SAT on dense layers, or beside RigL on sparse ones: as planned within 2 %, and exactly what the kernels compute."""
    sat = sx.SAT(active=0.25, update_interval=5, granularity="row" if granularity == "with RigL" else granularity)
    sizes = [nn.Linear(40, 40) for _ in range(4)]
    model = nn.Sequential(*sizes)
    method = sat
    if granularity == "with RigL":
        sx.sparsify_(model, 0.5, layout="csr", init="masked")
        method = sx.Together(sx.RigL(update_interval=4, t_end=1.0), sat)
    optimizer, sparsifier = sparsifier_of(model, method, 20)
    flops = 0
    for step in range(20):
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(step), requires_grad=True)
        flops += sx.count_flops(lambda: model(x).square().sum().backward())  # noqa: B023
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    found = sx.count_flops(model, sparsifier, torch.randn(16, 40)).model
    assert found.training.executed == pytest.approx(flops / 20, rel=1e-12)
    if granularity != "with RigL":  # 5 steps before the first update, 3 later ones score: 12 with a quarter, 8 with all
        assert found.training_share.planned == pytest.approx((2 + (12 * 0.25 + 8) / 20) / 3, rel=0.02)
        assert found.training_share.executed == pytest.approx(found.training_share.planned, rel=0.02)
