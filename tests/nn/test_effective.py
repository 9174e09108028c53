"""`from_dense` of pruned, normalized or parametrized layers: what their next forward pass would use; and their masks."""

import copy

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

CLOSE = TOLERANCE[torch.float32]


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def old_weight_norm(layer):
    layer = torch.nn.utils.weight_norm(layer)
    layer.weight_g.data *= 3  # the attribute `weight` is that of before
    return layer


def twice_pruned(layer):
    prune.random_unstructured(layer, "weight", 0.3)
    prune.l1_unstructured(layer, "weight", 0.3)
    layer.weight_orig.data += 1
    return layer


def bias_pruned(layer):
    return prune.random_unstructured(layer, "bias", 0.5)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "two parametrizations": lambda layer: parametrize.register_parametrization(
        parametrizations.spectral_norm(layer), "weight", Doubled()
    ),
    "old weight_norm": old_weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.75),
    "pruned twice": twice_pruned,
    "bias": bias_pruned,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", COMPUTED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_that_of_the_next_forward_pass(kind, case, training):
    dense = COMPUTED[case](KINDS[kind].made_dense()).train(training)
    before = copy.deepcopy(dense.state_dict())
    versions = [buffer._version for buffer in dense.buffers()]
    sparse = KINDS[kind].sparse.from_dense(dense, sparsity=0.0)
    after = dense.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())  # the power iteration is where it was
    assert versions == [buffer._version for buffer in dense.buffers()]
    assert sparse.training == training
    assert all(p.requires_grad for p in sparse.parameters())
    x = KINDS[kind].input()
    torch.testing.assert_close(sparse(x), dense(x), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_dtype(kind, dtype):
    dense = prune.l1_unstructured(KINDS[kind].made_dense(), "weight", 0.75)
    sparse = KINDS[kind].sparse.from_dense(dense, mask=dense.weight_mask.to(dtype))
    assert torch.equal(sparse.mask(), dense.weight_mask.bool())
    torch.testing.assert_close(sparse(KINDS[kind].input()), dense(KINDS[kind].input()), **CLOSE)


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan")])
def test_a_mask_of_other_numbers_is_refused(value):
    mask = torch.ones(3, 4)
    mask[1, 2] = value
    with pytest.raises(ValueError, match=f"expected a mask of 0 and 1, or False and True, got {value}; do mask != 0"):
        sx.SparseLinear.from_dense(nn.Linear(4, 3), mask=mask)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize(("kind", "layout"), [(kind, layout) for kind in KINDS for layout in LAYOUTS])
def test_a_pruned_checkpoint_loads(kind, layout, part):
    dense = prune.l1_unstructured(KINDS[kind].made_dense(), part, 0.75 if part == "weight" else 0.5)
    sparse = KINDS[kind].made(layout=layout)
    entries = {f"0.{name}": tensor for name, tensor in dense.state_dict().items()}
    nn.Sequential(sparse).load_state_dict(entries, strict=True)
    want = KINDS[kind].made(layout=layout)
    want.load_state_dict({"weight": dense.weight.detach(), "bias": dense.bias.detach()})
    assert torch.equal(sparse.bias, want.bias)
    assert torch.equal(sparse.mask(), want.mask())
    assert torch.equal(sparse.dense_weight(), want.dense_weight())


def test_a_sparse_layer_that_is_pruned_itself_keeps_its_entries():
    sparse = prune.l1_unstructured(sx.SparseLinear(8, 8, sparsity=0.5), "weight", 0.5)
    other = prune.random_unstructured(sx.SparseLinear(8, 8, sparsity=0.5), "weight", 0.25)
    other.load_state_dict(sparse.state_dict())
    assert torch.equal(other.weight_mask, sparse.weight_mask)


class Own(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("dense", "error", "sentence"),
    [
        (lambda: nn.LazyLinear(3), ValueError, "expected a weight, got a lazy Linear; run a batch"),
        (
            lambda: nn.Linear(4, 3, dtype=torch.complex64),
            TypeError,
            "expected a plain weight of dtype torch.bfloat16, torch.float16, torch.float32, torch.float64, got a .*complex64",
        ),
        (lambda: Own(4, 3), TypeError, "expected a Linear, got Own with a forward pass of its own"),
    ],
)
def test_layers_of_which_there_is_no_sparse_one(dense, error, sentence):
    with pytest.raises(error, match=f"SparseLinear.from_dense: {sentence}"):
        sx.SparseLinear.from_dense(dense())
