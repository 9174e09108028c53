"""The layout "ell", written outside the package, as a layer: its function, copies, checkpoints and compiled code."""

import copy
import math
import pickle

import ell
import pytest
import torch
from cases import TOLERANCE, name_of
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import sparse_ext as sx
from sparse_ext.ops import Rule

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def new(shape=(12, 9), sparsity=0.7, capacity=0.4, **kwargs):
    return sx.SparseLinear(*shape, sparsity=sparsity, capacity=capacity, layout="ell", **kwargs)


def chosen(shape=(12, 9), **kwargs):
    """A layer with a dense weight of which products take a part."""
    layer = new(shape, capacity=None, **kwargs)
    layer.store_dense_()
    layer.reset_parameters()
    return layer


def outcome(layer, x, dy):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    return y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()


# ---- function --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("make", [new, chosen])
def test_function_and_gradients_are_the_dense_layers(make, dtype):
    layer = make(dtype=dtype)
    twin, x, dy = layer.to_dense().double(), torch.randn(2, 5, 12).to(dtype), torch.randn(2, 5, 9).to(dtype)
    y, dx, dw, db = outcome(layer, x, dy)
    want_y, want_dx, want_dw, want_db = outcome(twin, x.double(), dy.double())
    want_dw = want_dw.flatten() if make is chosen else ell.Ell.pack(want_dw, layer.pattern)
    for got, want in ((y, want_y), (dx, want_dx), (dw, want_dw), (db, want_db)):
        torch.testing.assert_close(got, want.to(dtype), **TOLERANCE[dtype])


def test_gradcheck():
    layer, x = new(dtype=torch.float64), torch.randn(4, 12, dtype=torch.float64, requires_grad=True)

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias))


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (0, 3), (3, 0), (8, 6)], ids=str)
@pytest.mark.parametrize("tokens", [0, 4])
def test_degenerate_shapes(shape, tokens):
    layer = sx.SparseLinear(*shape, sparsity=0.5, layout="ell")
    assert layer.nnz == round(0.5 * math.prod(shape)) == int(layer.mask().sum())
    x, dy = torch.randn(tokens, shape[0]), torch.randn(tokens, shape[1])
    for got, want in zip(outcome(layer, x, dy)[:2], outcome(layer.to_dense(), x, dy)[:2], strict=True):
        torch.testing.assert_close(got, want, **TOLERANCE[torch.float32])


def test_zeros_never_meet_infinity():
    layer, x = new(), torch.randn(3, 12)
    x[:, 5] = math.inf
    assert layer(x).isfinite().all(0).equal(~layer.mask()[:, 5])


def test_autocast():
    layer, x = new(), torch.randn(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y, want = layer(x), layer.to_dense()(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, want, **TOLERANCE[torch.bfloat16])
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_wrong_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"ell_linear: expected x with 12 columns .* got shape \(3, 11\)"):
        new()(torch.randn(3, 11))
    with pytest.raises(TypeError, match=r"ell_linear: expected x of dtype torch.float32 \(as the weight\), got torch.float64"):
        new()(torch.randn(3, 12).double())


# ---- positions -------------------------------------------------------------------------------------------------------


def test_rows_are_no_longer_than_their_share():
    assert new((12, 9), 0.75, None).mask().sum(1).tolist() == [3] * 9
    layer = new((12, 9), 0.7, None)
    assert (layer.nnz, layer.capacity, int(layer.mask().sum(1).max())) == (32, 36, 4)
    with pytest.raises(ValueError, match="at most 4 positions in each row, got 12"):
        layer.set_matrix_(torch.ones(9, 12), torch.arange(9)[:, None].expand(9, 12) == 0)


@pytest.mark.parametrize(("drop", "grow"), [(0, 0), (9, 9), (32, 32), (5, 3), (3, 5)])
def test_regrowth_takes_the_best_that_rows_have_room_for(drop, grow):
    pattern, keep = new().pattern, torch.randn(45)
    score = torch.randint(4, (9, 12)).float()  # many ties
    at = pattern.positions()
    order = sorted((s for s in range(45) if at[s] >= 0), key=lambda s: (-abs(float(keep[s])), s))
    kept = {int(at[s]) for s in order[: len(order) - drop]}
    expected, width = set(kept), 5
    for where in sorted(set(range(108)) - kept, key=lambda p: (-float(score.flatten()[p]), p)):
        if len(expected) < len(kept) + grow and sum(p // 12 == where // 12 for p in expected) < width:
            expected.add(where)
    regrown, source = pattern.regrown(keep, score, drop, grow)
    new_at = regrown.positions()
    assert set(new_at[new_at >= 0].tolist()) == expected
    assert torch.equal(at[source[source >= 0]], new_at[source >= 0])
    assert kept == set(new_at[source >= 0].tolist()) & kept


def test_growth_without_room_is_refused():
    with pytest.raises(ValueError, match=r"expected grow between 0 and 18 \(positions that are free, with room .*, got 19"):
        new().pattern.regrown(torch.randn(45), 0, 5, 19)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_meta_moves_and_copies():
    layer = new(device="meta")
    assert layer.columns.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert layer.nnz == 32
    x = torch.randn(3, 12)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).double().float()):
        assert torch.equal(twin(x), layer(x))
        twin.reset_parameters()
        assert not torch.equal(twin.mask(), layer.mask())
    assert layer.bfloat16().columns.dtype == torch.int32


def test_sparsify_and_densify():
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
    sx.sparsify_(model, 0.7, layout="ell")
    assert [type(layer) for layer in model] == [sx.SparseLinear, nn.ReLU, sx.SparseLinear]
    x = torch.randn(3, 12)
    y = model(x)
    torch.testing.assert_close(sx.densify_(model)(x), y, **TOLERANCE[torch.float32])


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [new, chosen])
@pytest.mark.parametrize("assign", [False, True])
def test_own_checkpoints(make, assign):
    layer, other, x = make(), make(), torch.randn(3, 12)
    other.load_state_dict(layer.state_dict(), assign=assign)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.mask(), layer.mask())


SOURCES = {
    "dense": lambda: nn.Linear(12, 9),
    "csr": lambda: sx.SparseLinear(12, 9, sparsity=0.7),
    "2:4": lambda: sx.SparseLinear(12, 9, layout="2:4"),
    "packed ell": lambda: new((12, 9), 0.7, None),
    "chosen ell": chosen,
}
TARGETS = {
    "ell": lambda: new(sparsity=0.3, capacity=1.0),
    "chosen ell": lambda: chosen(sparsity=0.0),
    "csr": lambda: sx.SparseLinear(12, 9, sparsity=0.3, capacity=1.0),
    "dense": lambda: sx.SparseLinear(12, 9, layout="dense"),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_converted_checkpoints(name, target):
    """A layer that can hold the positions takes all of them."""
    source, layer, positions = SOURCES[name](), TARGETS[target](), name != "dense"
    layer.load_state_dict(source.state_dict(), strict=True)
    matrix = source.dense_weight() if positions else source.weight.detach()
    if name == target == "chosen ell":
        assert torch.equal(layer.weight, source.weight)
    elif positions or target in ("chosen ell", "dense"):
        assert torch.equal(layer.dense_weight(), matrix)
    else:  # pruned to the layer's nnz
        assert int(layer.mask().sum()) == layer.nnz == 76
        assert torch.equal(layer.dense_weight(), matrix * layer.mask())
        assert matrix[layer.mask()].abs().min() >= matrix[~layer.mask()].abs().max() or target == "ell"


@pytest.mark.parametrize("wrong", ["too many", "out of range", "twice", "dtype", "shape"])
def test_what_is_no_pattern_is_refused_and_nothing_changes(wrong):
    layer = new()
    state, before = layer.state_dict(), copy.deepcopy(layer.state_dict())
    columns = state["columns"].clone()
    if wrong == "too many":
        state = sx.SparseLinear(12, 9, sparsity=0.2).state_dict()
    else:
        columns[0, :2] = torch.tensor([3, {"out of range": 13, "twice": 3}.get(wrong, 4)])
        columns = {"dtype": columns.float(), "shape": columns.t()}.get(wrong, columns)
        state = state | {"columns": columns}
    with pytest.raises(RuntimeError, match=r"weight: expected|columns: expected|pattern: expected|at most 5 positions"):
        layer.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


# ---- compiled code ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [new, chosen])
def test_one_program_for_all_batches_and_patterns(make, backend):
    torch._dynamo.reset()
    layer, counter = make(), CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for change in (lambda: None, layer.reset_parameters, lambda: layer.load_state_dict(nn.Linear(12, 9).state_dict())):
        change()
        for size in (5, 7, 33):
            x, dy = torch.randn(size, 12), torch.randn(size, 9)
            for got, want in zip(outcome(compiled, x, dy), outcome(layer, x, dy), strict=True):
                torch.testing.assert_close(got, want, **TOLERANCE[torch.float32])
    assert counter.frame_count <= 2  # the first size, then any
    assert layer.chosen_by == (Rule("largest") if make is chosen else None)
