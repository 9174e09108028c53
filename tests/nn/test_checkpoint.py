"""Whatever carries a module carries its pattern: state dicts, copies, pickles, dtype and device moves, dense checkpoints."""

import copy
import io
import pickle

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn

from sparse_ext import SparseLinear, sparsify_
from sparse_ext.ops import LAYOUTS, operands_of

X = KINDS["linear"].input()


def made(kind="linear", **options):
    return KINDS[kind].made(**{"sparsity": 0.7, "capacity": 0.4, **options})


def kind_of(layer):
    return next(name for name, kind in KINDS.items() if type(layer) is kind.sparse)


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def loaded(layer, **options):
    other = made(kind_of(layer))
    other.load_state_dict(saved_and_loaded(layer.state_dict()), **options)
    return other


def from_meta(layer):
    with torch.device("meta"):
        other = made(kind_of(layer))
    other.load_state_dict(layer.state_dict(), assign=True)
    return other


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state_dict": loaded,
    "state_dict, assign": lambda layer: loaded(layer, assign=True),
    "state_dict, from meta": from_meta,
    "there and back": lambda layer: copy.deepcopy(layer).double().float(),
    "to cpu": lambda layer: layer.to("cpu"),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_the_same_layer(kind, way):
    layer, x = made(kind), KINDS[kind].input()
    dense, mask, y = layer.dense_weight(), layer.mask(), layer(x)
    other = COPIES[way](layer)
    assert torch.equal(other.mask(), mask)
    assert torch.equal(other.dense_weight(), dense)
    assert torch.equal(other(x), y)
    assert (other.nnz, other.capacity, other.layout) == (layer.nnz, layer.capacity, layer.layout)
    assert other.pattern.row_ptr is other.row_ptr  # one pattern, not a copy beside the buffers
    assert other.pattern.col_idx is other.col_idx
    x, dx, dw = x.requires_grad_(), [], []
    for one in (layer, other):
        one.weight.grad = x.grad = None
        one(x).square().sum().backward()
        dx.append(x.grad.clone())
        dw.append(one.weight.grad.clone())
    assert torch.equal(*dx)
    assert torch.equal(*dw)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_independent(way):
    layer = made()
    other, mask = COPIES[way](layer), layer.mask()
    other.reset_parameters()
    assert torch.equal(layer.mask(), mask)
    assert not torch.equal(other.mask(), mask)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_watched_layer_can_be_copied(way):
    """The copy is not watched, and what happens to it does not concern the watch."""
    layer = made()
    watch = layer.watch(None)
    other = COPIES[way](layer)
    assert other.watched is None
    other(X).sum().backward()
    assert watch.passes == 0
    layer(X).sum().backward()
    assert watch.passes == 1


@pytest.mark.parametrize("move", [
    lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.to(torch.bfloat16), lambda m: m.to(X.bfloat16()),
])  # fmt: skip
def test_dtype_moves_keep_the_pattern(move):
    layer = made()
    mask, dense = layer.mask(), layer.dense_weight()
    move(layer)
    dtype = layer.weight.dtype
    assert dtype != torch.float32
    assert layer.bias.dtype == dtype
    assert (layer.row_ptr.dtype, layer.col_idx.dtype) == (torch.int32, torch.int32)
    assert torch.equal(layer.mask(), mask)
    assert torch.equal(layer.dense_weight(), dense.to(dtype))
    y = layer(X.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y, (X.to(dtype) @ dense.to(dtype).T + layer.bias), **TOLERANCE[torch.bfloat16])


def test_state_dict_is_plain_tensors():
    state = made().state_dict()
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == {
        "weight": ((43,), torch.float32),
        "bias": ((9,), torch.float32),
        "row_ptr": ((10,), torch.int32),
        "col_idx": ((43,), torch.int32),
    }


def test_loading_keeps_addresses():
    """DESIGN 4: addresses never change, so CUDA graphs and compiled code stay valid."""
    layer = made()

    def addresses():
        operands = operands_of(LAYOUTS["csr"], layer.pattern)
        return [tensor.data_ptr() for tensor in (*layer.pattern.buffers.values(), *operands, layer.weight)]

    before = addresses()
    layer.load_state_dict(made().state_dict())
    assert addresses() == before


# ---- other capacities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0.3, 0.35, 1.0])
def test_a_checkpoint_of_another_capacity_fits(capacity):
    layer, other = made(capacity=capacity), made()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.dense_weight(), layer.dense_weight())
    assert other.capacity == 43
    assert (other.weight[other.nnz :] == 0).all()
    assert (other.col_idx[other.nnz :] == 0).all()


def test_a_checkpoint_of_another_nnz_fits():
    layer, other = made(sparsity=0.9), made()
    other.load_state_dict(layer.state_dict())
    assert other.nnz == layer.nnz == 11
    assert torch.equal(other.dense_weight(), layer.dense_weight())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.pattern.BUFFERS])
def test_what_a_checkpoint_has_in_unused_slots_is_dropped(layout, assign):
    """A 2:4 group of five columns ends in padding: multiplied by its zeros, an Inf there would be NaN in y."""
    layer = SparseLinear(5, 6, layout=layout, sparsity=0.5)
    state, unused = copy.deepcopy(layer.state_dict()), layer.pattern.positions() < 0
    state["weight"][unused] = float("inf")
    given = state["weight"].clone()
    layer.load_state_dict(state, assign=assign)
    assert (layer.weight[unused] == 0).all()
    assert torch.equal(state["weight"], given)
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer(x), x @ layer.dense_weight().t() + layer.bias)


# ---- dense checkpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_checkpoint_keeps_its_largest_magnitudes(kind, dtype, assign):
    if assign and dtype == torch.float16:
        pytest.skip("assign keeps the checkpoint's dtype, and there are no float16 kernels for the CPU")
    dense, layer = KINDS[kind].made_dense(dtype=dtype), made(kind)
    result = layer.load_state_dict(dense.state_dict(), strict=True, assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert layer.nnz == 32
    assert layer.weight.dtype == (dtype if assign else torch.float32)
    kept = torch.zeros(108, dtype=torch.bool)
    kept[torch.argsort(dense.weight.detach().abs().flatten(), descending=True, stable=True)[:32]] = True
    assert torch.equal(layer.mask(), kept.view(dense.weight.shape))
    assert torch.equal(layer.dense_weight(), (dense.weight * layer.mask()).to(layer.weight.dtype))
    assert torch.equal(layer.bias, dense.bias.to(layer.bias.dtype))
    layer(KINDS[kind].input().to(layer.weight.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_layer_takes_what_became_of_it(kind):
    layer, dense, x = made(kind), KINDS[kind].made_dense(), KINDS[kind].input()
    dense.load_state_dict(layer.to_dense().state_dict(), strict=True)
    torch.testing.assert_close(dense(x), layer(x))
    other = made(kind)
    other.load_state_dict(dense.state_dict(), strict=True)
    assert torch.equal(other.dense_weight(), layer.dense_weight())


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_weight_of_another_shape_is_refused(kind):
    """Though it has as many values."""
    state = {"weight": torch.zeros(12, 9), "bias": torch.zeros(9)}
    with pytest.raises(RuntimeError, match=r"weight: expected a dense weight of shape \(9, .*\), got \(12, 9\)"):
        made(kind).load_state_dict(state)


def test_a_dense_checkpoint_of_a_whole_model():
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Sequential(nn.Linear(20, 7)))
    state = copy.deepcopy(model.state_dict())
    sparsify_(model, 0.8)
    before = [layer.nnz for layer in (model[0], model[2][0])]
    model.load_state_dict(state, strict=True)
    assert [layer.nnz for layer in (model[0], model[2][0])] == before
    for layer, name in ((model[0], "0"), (model[2][0], "2.0")):
        assert torch.equal(layer.dense_weight(), state[f"{name}.weight"] * layer.mask())


# ---- meta ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_meta_then_to_empty_then_reset(kind):
    x = KINDS[kind].input()
    with torch.device("meta"):
        layer = made(kind)
    assert layer.weight.is_meta
    assert (layer.nnz, layer.capacity) == (32, 43)
    shape = layer(x.to("meta")).shape
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.nnz == int(layer.mask().sum()) == 32
    assert (layer.weight[32:] == 0).all()
    assert layer.bias.abs().max() <= 12**-0.5
    torch.testing.assert_close(layer(x), layer.to_dense()(x))
    assert layer(x).shape == shape


@pytest.mark.parametrize("fill", [0, -1, 7, 2**31 - 1])
def test_to_empty_survives_whatever_memory_holds(fill):
    with torch.device("meta"):
        layer = made()
    layer = layer._apply(lambda t: torch.full(t.shape, fill if not t.is_floating_point() else 0.5, dtype=t.dtype))
    layer.load_state_dict(made().state_dict())
    assert layer.nnz == 32


def test_a_meta_model_takes_a_dense_checkpoint():
    dense = nn.Linear(12, 9)
    with torch.device("meta"):
        layer = made()
    layer.to_empty(device="cpu")
    layer.load_state_dict(dense.state_dict())
    assert layer.nnz == 32
    assert torch.equal(layer.dense_weight(), dense.weight * layer.mask())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("layout", ["csr", "masked"])
def test_a_weight_that_may_be_dense_or_packed_is_refused(layout, strict):
    """All positions fit the layer: nothing tells whether the values are those of its slots."""
    layer = SparseLinear(4, 3, sparsity=0.5, layout=layout, capacity=1.0)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"weight: expected .* beside 12 values, which may be dense or packed, got none"):
        layer.load_state_dict(SparseLinear(4, 3, layout="dense").state_dict(), strict=strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
