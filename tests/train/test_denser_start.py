"""Layers that begin denser than they end: they get the room that their method needs, and no more, whenever it is asked."""

import copy
import io
import math
from dataclasses import dataclass

import pytest
import torch
from thinning import Thinning
from torch import nn
from training import OPTIMIZERS, assert_same, everything, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.methods import Method
from sparse_ext.nn import sparse_layers
from sparse_ext.nn.form import Form, give_forms_
from sparse_ext.train.resumable import numbers_of

METHOD = method_named("thinning", update_interval=3, t_end=1.0)
TOTAL = 30


@dataclass(frozen=True)
class Rooted(Method):
    """Begins with a density that no share of the positions equals, and needs room for another one."""

    changes_density = True

    def initial_density(self, density):
        return math.sqrt(density)

    def max_density(self, density):
        return density ** (1 / 3)


@pytest.mark.parametrize("method", [METHOD, Rooted()], ids=["twice", "root"])
def test_what_sparsify_makes_is_what_the_sparsifier_needs(method):
    """Counts are rounded: the same ones on both sides, or DDP would refuse the one slot that is missing."""
    for percent in range(2, 50):
        model = nn.Sequential(nn.Linear(7, 13), nn.Linear(13, 9))
        sx.sparsify_(model, 1 - percent / 100, distribution="uniform", layout="csr", method=method)
        before = [layer.capacity for layer in model]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=TOTAL)
        sparsifier.step()
        assert [layer.capacity for layer in model] == before
        for layer in model:
            positions = layer.product.rows * layer.product.cols
            made = layer.target_nnz / positions
            assert layer.target_nnz == round(percent / 100 * positions)
            assert layer.nnz == round(method.initial_density(made) * positions)
            assert layer.capacity == max(layer.nnz, round(method.max_density(made) * positions))


def trainer(seed):
    model = mlp(seed, method="thinning")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, METHOD, total_steps=TOTAL)


@pytest.mark.parametrize("at", [0, 1, 15, TOTAL - 1])
def test_a_model_that_is_loaded_before_its_sparsifier_is_built(at):
    """Its density is then that of a phase: neither is it judged as a new one, nor does it need more room than one."""
    model, optimizer, sparsifier = trainer(0)
    run(model, optimizer, sparsifier, range(1, at + 1))
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, sparsifier)])
    run(model, optimizer, sparsifier, range(at + 1, TOTAL + 1))
    other = mlp(1, method="thinning")
    other.load_state_dict(saved[0])
    before = [layer.capacity for layer in sparse_layers(other).values()]
    own = OPTIMIZERS["adamw"](other.parameters())
    own.load_state_dict(saved[1])
    resumed = sx.Sparsifier(other, own, METHOD, total_steps=TOTAL)
    resumed.load_state_dict(saved[2])
    assert [layer.capacity for layer in sparse_layers(other).values()] == before
    run(other, own, resumed, range(at + 1, TOTAL + 1))
    assert_same(everything(other, own), everything(model, optimizer))
    assert all(layer.nnz == layer.target_nnz for layer in sparse_layers(other).values())


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def of_its_form(model):
    """As a checkpoint of Hugging Face's is loaded: the layers are made of what its configuration says."""
    other = nn.Sequential(*(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 6))).to("meta")
    give_forms_(other, {name: Form.of(layer) for name, layer in sparse_layers(model).items()})
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@pytest.mark.parametrize("twin", [copied, pickled, of_its_form])
def test_a_copy_knows_what_it_was_made_for(twin):
    model = mlp(method="thinning")
    other = twin(model)
    for layer, its in zip(sparse_layers(model).values(), sparse_layers(other).values(), strict=True):
        assert its.target_nnz == layer.target_nnz < layer.nnz == its.nnz
    optimizer = OPTIMIZERS["adamw"](other.parameters())
    sparsifier = sx.Sparsifier(other, optimizer, METHOD, total_steps=TOTAL)
    run(other, optimizer, sparsifier, range(1, TOTAL + 1))
    assert [layer.nnz for layer in sparse_layers(other).values()] == [72, 120]


def test_new_values_for_a_layer_keep_what_it_was_made_for():
    model = mlp(method="thinning")
    for layer in sparse_layers(model).values():
        layer.to("meta").to_empty(device="cpu")
        layer.reset_parameters()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    run(model, optimizer, sx.Sparsifier(model, optimizer, METHOD, total_steps=TOTAL), range(1, TOTAL + 1))
    assert [layer.nnz for layer in sparse_layers(model).values()] == [72, 120]


def test_a_layer_that_is_not_dense_enough_is_refused_before_it_changes():
    model = mlp()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, METHOD, total_steps=TOTAL)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="Thinning begins with denser layers than it ends with, got layers that are not: 0, 2"):
        sparsifier.step()
    assert_same(everything(model, optimizer), before)


def test_the_smallest_weights_of_packed_and_dense_storage_are_those_in_use():
    """A dense weight holds others, too: here of magnitude 0.1 and 0.2."""
    packed = sx.SparseLinear.from_dense(linear([[0.5, 0.0, 0.3, 0.0]]), mask=torch.tensor([[1, 0, 1, 0]]))
    whole = sx.SparseLinear.from_dense(linear([[0.1, 0.4, -0.7, 0.2]]), sparsity=0.5)
    whole.store_dense_()
    whole.set_matrix_(torch.tensor([[0.1, 0.4, -0.7, 0.2]]))
    model = nn.ModuleDict({"packed": packed, "whole": whole})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, Method(), total_steps=TOTAL)
    layers = numbers_of(sparsifier._layers)
    assert [layers.smallest(count) for count in (0, 1, 2, 3, 4)] == [
        {"packed": 0, "whole": 0}, {"packed": 1, "whole": 0}, {"packed": 1, "whole": 1},
        {"packed": 2, "whole": 1}, {"packed": 2, "whole": 2},
    ]  # fmt: skip


def linear(weights):
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor(weights))
    return layer


def test_thinning_is_as_it_is_meant():
    """Of 240 weights 72 stay; it begins with twice as many, on a straight line."""
    model, optimizer, sparsifier = trainer(0)
    assert isinstance(sparsifier.method, Thinning)
    counts = []
    for step in range(0, TOTAL, 3):
        counts.append(model[0].nnz)
        run(model, optimizer, sparsifier, range(step + 1, step + 4))
    assert [*counts, model[0].nnz] == [144, 137, 130, 122, 115, 108, 101, 94, 86, 79, 72]
