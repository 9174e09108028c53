"""Checkpoints of layers of layout "2:4": packed and with a dense master, each from the other, from dense ones, corrupt ones."""

import copy
import io

import pytest
import torch
from nm24 import ALL, CAPACITIES, X, made
from torch import nn

from sparse_ext.ops import reference


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ALL)
def test_a_checkpoint_is_the_layer(kind):
    layer = ALL[kind]()
    other = made(1.0 if kind != "packed" else 0.5)
    addresses = [t.data_ptr() for t in (other.weight, *other.pattern.tensors)]
    other.load_state_dict(saved(layer))
    assert [t.data_ptr() for t in (other.weight, *other.pattern.tensors)] == addresses
    assert torch.equal(other(X), layer(X))
    assert torch.equal(other.mask(), layer.mask())
    for twin in (copy.deepcopy(layer), copy.deepcopy(layer).double().float(), copy.deepcopy(layer).to("cpu")):
        assert torch.equal(twin(X), layer(X))
        assert twin.choice == layer.choice


def test_no_dtype_move_rounds_the_scale():
    layer = made(1.0, "soft")
    scale = layer.pattern.scale
    assert scale == torch.tensor(scale).item()  # a float32
    assert layer.bfloat16().pattern.scale == scale != torch.tensor(scale).bfloat16().item()


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "dense"])
def test_a_packed_layer_takes_what_a_masters_products_take(kind):
    layer, other = ALL[kind](), made(0.5)
    other.load_state_dict(saved(layer))
    assert torch.equal(other.dense_weight(), layer.dense_weight())


@pytest.mark.parametrize("cols", [9, 10, 11])
def test_a_ragged_master_leaves_a_packed_layer_exact(cols):
    """A transposable tile may choose columns that do not exist; a packed layer's rows all have their two."""
    master, layer = made(1.0, "transposable", cols=cols), made(0.5, cols=cols)
    layer.load_state_dict(saved(master))
    assert torch.equal(layer.dense_weight(), master.dense_weight())
    assert layer.nnz == int(layer.mask().sum())


@pytest.mark.parametrize(("own", "other"), [(0.5, 1.0), (1.0, 0.5)])
def test_a_float16_checkpoint_on_the_cpu(own, other):
    state = {name: value.half() if value.is_floating_point() else value for name, value in made(other).state_dict().items()}
    layer = made(own)
    layer.load_state_dict(state)
    assert layer.dense_weight().count_nonzero() == layer.nnz


def test_a_master_takes_a_packed_weight():
    layer, other = made(0.5), made(1.0, "soft")
    other.load_state_dict(saved(layer))
    assert torch.equal(other.dense_weight(), layer.dense_weight())
    assert torch.equal(other.weight.view(9, 13), layer.dense_weight())


def test_a_packed_layer_refuses_a_dense_master():
    layer = made(0.5)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match="weight: expected two of four for a packed layer, got all of a dense master"):
        layer.load_state_dict(made(1.0, "dense").state_dict())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_a_dense_checkpoint(kind, assign):
    dense, layer = nn.Linear(13, 9), ALL[kind]()
    result = layer.load_state_dict(saved(dense), strict=True, assign=assign)
    assert not result.missing_keys
    assert layer.choice == (None if kind == "packed" else kind)
    if kind != "packed":
        assert torch.equal(layer.weight.view(9, 13), dense.weight)
    if kind != "soft":
        assert torch.equal(layer.dense_weight(), dense.weight * layer.mask())
    else:  # the scale is that of these weights
        twin = made(1.0)
        twin.load_state_dict(saved(dense))
        twin.prune_("soft")
        assert layer.pattern.scale == twin.pattern.scale
    weight = dense.weight.detach()
    choice = "transposable" if kind == "transposable" else "largest"
    assert torch.equal(layer.ids, reference.nm24_prune(weight, choice)[1])


def not_transposable(ids):
    """Every row's first two."""
    return torch.full_like(ids, 0x44)


CORRUPT = {
    "an illegal code": ("ids", lambda t: torch.full_like(t, 0x45), "codes among .* got 5"),
    "ids of another shape": ("ids", lambda t: t[:, :1], r"expected torch.uint8 of shape \(9, 2\), got torch.uint8 of \(9, 1\)"),
    "ids of another dtype": ("ids", lambda t: t.float(), "got torch.float32"),
    "no such choice": ("pruning", lambda t: t + 7, "one of 4 choices"),
    "a scale that is none": ("pruning", lambda t: torch.tensor([2, 0x7F800000], dtype=torch.int32), "finite scale"),
    "pruning of another shape": ("pruning", lambda t: t[:1], r"two integers, got torch.int32 of shape \(1,\)"),
    "a weight of another length": ("weight", lambda t: t[:-1], r"expected 117 or 72 values, got \(71,\)"),
}


def test_tiles_that_are_not_transposable_are_refused():
    layer, state = made(1.0), made(1.0, "transposable").state_dict()
    state["ids"] = not_transposable(state["ids"])
    with pytest.raises(RuntimeError, match="expected at most two of every four in a column of transposable tiles, got 4"):
        layer.load_state_dict(state)
    assert layer.choice == "largest"


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_checkpoint_changes_nothing(case):
    name, edit, message = CORRUPT[case]
    layer, state = made(), made().state_dict()
    state[name] = edit(state[name])
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("capacity", CAPACITIES.values())
def test_meta_then_to_empty_then_reset(capacity):
    with torch.device("meta"):
        layer = made(capacity)
    assert layer(X.to("meta")).shape == (5, 9)
    assert layer.nnz == 63
    layer._apply(lambda t: torch.full(t.shape, 0.5 if t.is_floating_point() else 255, dtype=t.dtype))
    layer.reset_parameters()
    torch.testing.assert_close(layer(X), X @ layer.dense_weight().T + layer.bias)
    assert layer.dense_weight().count_nonzero() == 63
