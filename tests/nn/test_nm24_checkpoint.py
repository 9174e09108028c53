"""Checkpoints of layers of layout "2:4": packed and with a dense weight, each from the other, from dense ones, corrupt ones."""

import copy
import io

import pytest
import torch
from nm24 import ALL, CAPACITIES, RULES, X, made
from torch import nn

from sparse_ext.ops import LAYOUTS, Rule, operands_of, reference


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ALL)
def test_a_checkpoint_is_the_layer(kind):
    layer = ALL[kind]()
    other = made(1.0 if kind != "packed" else 0.5)
    tensors = (other.weight, *other.pattern.buffers.values(), *operands_of(LAYOUTS["2:4"], other.pattern))
    addresses = [tensor.data_ptr() for tensor in tensors]
    other.load_state_dict(saved(layer))
    tensors = (other.weight, *other.pattern.buffers.values(), *operands_of(LAYOUTS["2:4"], other.pattern))
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    assert torch.equal(other(X), layer(X))
    assert torch.equal(other.mask(), layer.mask())
    for twin in (copy.deepcopy(layer), copy.deepcopy(layer).double().float(), copy.deepcopy(layer).to("cpu")):
        assert torch.equal(twin(X), layer(X))
        assert twin.chosen_by == layer.chosen_by


def test_no_dtype_move_rounds_the_scale():
    layer = made(1.0, "soft")
    scale = layer.chosen_by.scale
    assert scale == torch.tensor(scale).item()  # a float32
    assert layer.bfloat16().chosen_by.scale == scale != torch.tensor(scale).bfloat16().item()


@pytest.mark.parametrize("kind", ALL)
def test_a_packed_weight_takes_what_products_take_of_a_dense_one(kind):
    layer, other = ALL[kind](), made(0.5)
    other.load_state_dict(saved(layer))
    assert torch.equal(other.dense_weight(), layer.dense_weight())


@pytest.mark.parametrize("cols", [9, 10, 11])
def test_a_ragged_dense_weight_leaves_a_packed_one_exact(cols):
    """A transposable tile may choose columns that do not exist; a packed layer's rows all have their two."""
    dense, layer = made(1.0, "transposable", cols=cols), made(0.5, cols=cols)
    layer.load_state_dict(saved(dense))
    assert torch.equal(layer.dense_weight(), dense.dense_weight())
    assert layer.nnz == int(layer.mask().sum())


@pytest.mark.parametrize(("own", "other"), [(0.5, 1.0), (1.0, 0.5)])
def test_a_float16_checkpoint_on_the_cpu(own, other):
    state = {name: value.half() if value.is_floating_point() else value for name, value in made(other).state_dict().items()}
    layer = made(own)
    layer.load_state_dict(state)
    assert layer.dense_weight().count_nonzero() == layer.nnz


def test_a_dense_weight_takes_a_packed_one():
    layer, other = made(0.5), made(1.0, "soft")
    other.load_state_dict(saved(layer))
    assert torch.equal(other.dense_weight(), layer.dense_weight())
    assert torch.equal(other.weight.view(9, 13), layer.dense_weight())


@pytest.mark.parametrize("rule", RULES)
def test_a_dense_tail_goes_on_where_every_position_is_stored(rule):
    """The products of its checkpoint took all of the weight; those of a layer with a dense weight do so too, and back."""
    tail, layer = made(1.0, rule), made(1.0, rule)
    before = saved(layer)
    tail.switch_("dense")
    layer.load_state_dict(saved(tail))
    assert layer.layout == "dense"
    assert torch.equal(layer(X), tail(X))
    layer.load_state_dict(before)
    assert (layer.layout, layer.chosen_by.name) == ("2:4", rule)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_packed_weight_prunes_what_stores_every_position():
    """As it prunes the checkpoint of a dense layer."""
    tail, packed, twin = made(1.0), made(0.5), made(0.5)
    tail.switch_("dense")
    packed.load_state_dict(saved(tail))
    twin.load_state_dict(saved(tail.to_dense()))
    assert torch.equal(packed.dense_weight(), twin.dense_weight())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_a_dense_checkpoint(kind, assign):
    dense, layer = nn.Linear(13, 9), ALL[kind]()
    result = layer.load_state_dict(saved(dense), strict=True, assign=assign)
    assert not result.missing_keys
    assert (layer.chosen_by and layer.chosen_by.name) == (None if kind == "packed" else kind)
    if kind != "packed":
        assert torch.equal(layer.weight.view(9, 13), dense.weight)
    if kind != "soft":
        assert torch.equal(layer.dense_weight(), dense.weight * layer.mask())
    else:  # the scale is that of these weights
        twin = made(1.0)
        twin.load_state_dict(saved(dense))
        twin.choose_("soft")
        assert layer.chosen_by.scale == twin.chosen_by.scale
    weight = dense.weight.detach()
    rule = "transposable" if kind == "transposable" else "largest"
    assert torch.equal(layer.ids, reference.nm24_prune(weight, rule)[1])


def not_transposable(ids):
    """Every row's first two."""
    return torch.full_like(ids, 0x44)


CORRUPT = {
    "an illegal code": ("ids", lambda t: torch.full_like(t, 0x45), "codes among .* got 5"),
    "ids of another shape": ("ids", lambda t: t[:, :1], r"expected torch.uint8 of shape \(9, 2\), got torch.uint8 of \(9, 1\)"),
    "ids of another dtype": ("ids", lambda t: t.float(), "got torch.float32"),
    "no such rule": ("rule", lambda t: Rule("smallest").encoded("cpu"), "expected one of largest, .* got 'smallest 1.0'"),
    "a scale that is none": ("rule", lambda t: Rule("soft", float("inf")).encoded("cpu"), "a finite scale, got 'soft inf'"),
    "a rule that is no text": ("rule", lambda t: torch.full_like(t, 255), "expected one of largest"),
    "a rule of another shape": ("rule", lambda t: t[:1], r"expected torch.uint8 of shape \(32,\), got torch.uint8 of \(1,\)"),
    "a weight of another length": ("weight", lambda t: t[:-1], r"expected 117 values .*, got \(116,\)"),
}


def test_tiles_that_are_not_transposable_are_refused():
    layer, state = made(1.0), made(1.0, "transposable").state_dict()
    state["ids"] = not_transposable(state["ids"])
    with pytest.raises(RuntimeError, match="expected at most two of every four in a column of transposable tiles, got 4"):
        layer.load_state_dict(state)
    assert layer.chosen_by.name == "largest"


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_checkpoint_changes_nothing(case):
    name, edit, message = CORRUPT[case]
    layer, state = made(1.0), made(1.0).state_dict()
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_values_do_not_give_changes_nothing(value):
    """Of "soft" it is computed from all values: of a dense checkpoint, and when the rule is chosen."""
    layer, dense = made(1.0, "soft"), nn.Linear(13, 9, bias=False)
    dense.weight.data[0, 0] = value
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match="weight: expected finite values, from which the rule 'soft' computes its scale"):
        layer.load_state_dict({"weight": dense.weight.detach()}, strict=False)
    assert layer.chosen_by.name == "soft"
    assert all(torch.equal(a, b) for a, b in zip(before.values(), layer.state_dict().values(), strict=True))
    layer = made(1.0)
    layer.weight.data[0] = value
    with pytest.raises(ValueError, match="expected finite values, from which the rule 'soft' computes its scale"):
        layer.choose_("soft")
    assert layer.chosen_by.name == "largest"
