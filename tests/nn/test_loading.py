"""Checkpoints of other formats, onto layers without values, or with too many: they load as they were saved, or a sentence."""

import itertools

import pytest
import torch
import torch.distributed.checkpoint as dcp
from kinds import KINDS
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

VARIABLE = [layout for layout, kind in LAYOUTS.items() if kind.pattern.VARIABLE]
OWN = [layout for layout, kind in LAYOUTS.items() if kind.__module__.startswith("sparse_ext.")]  # not those of other tests
WITH_PATTERN = [layout for layout, kind in LAYOUTS.items() if kind.pattern.BUFFERS]


def assert_same(one, other, x):
    torch.testing.assert_close(one.dense_weight(), other.dense_weight())
    torch.testing.assert_close(one(x), other(x))


# ---- onto "meta" -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "other"), list(itertools.product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_on_meta_is_filled_by_assignment(kind, own, other):
    """As the same layer on the CPU is, or refused as there."""
    x, states = KINDS[kind].input(), KINDS[kind].made(layout=other).state_dict()
    target, like = (KINDS[kind].made(layout=own, device=device) for device in ("meta", "cpu"))
    refused = []
    for layer in (like, target):
        try:
            layer.load_state_dict(states, assign=True)
        except RuntimeError as error:
            refused.append(str(error))
    assert len(refused) in (0, 2)
    assert refused[:1] == refused[1:]
    if not refused:
        assert {tensor.device.type for tensor in (*target.parameters(), *target.buffers())} == {"cpu"}
        assert_same(target, like, x)
        target(x).sum().backward()


@pytest.mark.parametrize("part", ["weight", "pattern"])
@pytest.mark.parametrize("layout", WITH_PATTERN)
def test_half_a_checkpoint_leaves_a_layer_on_meta(layout, part):
    state, layer = sx.SparseLinear(12, 9, layout=layout).state_dict(), sx.SparseLinear(12, 9, layout=layout, device="meta")
    half = {name: value for name, value in state.items() if (name == "weight") == (part == "weight")}
    with pytest.raises(RuntimeError, match=r"weight: expected .*, got"):
        layer.load_state_dict(half, strict=False, assign=True)
    assert {tensor.device.type for tensor in (*layer.parameters(), *layer.buffers())} == {"meta"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_assignment_a_layer_on_meta_stays_there(layout):
    """PyTorch warns, as of every module."""
    layer = sx.SparseLinear(12, 9, layout=layout, device="meta")
    with pytest.warns(UserWarning, match="assign=True"):
        layer.load_state_dict(sx.SparseLinear(12, 9, layout=layout).state_dict())
    assert layer.weight.is_meta
    assert layer(torch.empty(5, 12, device="meta")).shape == (5, 9)
    assert layer.to_empty(device="cpu").nnz == sx.SparseLinear(12, 9, layout=layout).nnz


# ---- too large a checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(("own", "other"), [("csr", "csr"), ("csr", "2:4"), ("auto", "masked")])
def test_what_would_give_room_is_named(own, other, assign):
    large = sx.SparseLinear(12, 9, layout=other, **({} if other == "2:4" else {"sparsity": 0.5}))
    with pytest.raises(RuntimeError, match=r"weight: .* at most 11 .*, got 54; make the layer with capacity=0\.5 .*method="):
        sx.SparseLinear(12, 9, layout=own).load_state_dict(large.state_dict(), assign=assign)
    layer = sx.SparseLinear(12, 9, layout=own, capacity=0.5)
    layer.load_state_dict(large.state_dict(), assign=assign)
    assert torch.equal(layer.dense_weight(), large.dense_weight())


# ---- other formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(None, None), (None, 0.5), (0.5, None)])
@pytest.mark.parametrize("layout", OWN)
def test_safetensors_of_any_capacity(layout, before, after, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    given = [{} if layout not in VARIABLE else {"capacity": capacity} for capacity in (before, after)]
    saved, loaded, again = (nn.Sequential(sx.SparseLinear(12, 9, layout=layout, **one)) for one in (*given, given[1]))
    safetensors.save_model(saved, tmp_path / "model.safetensors")
    assert safetensors.load_model(loaded, tmp_path / "model.safetensors") == (set(), [])
    again.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    for model in (loaded, again):
        assert_same(model[0], saved[0], KINDS["linear"].input())


@pytest.mark.parametrize("by_functions", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_distributed_checkpoints_of_one_process(layout, by_functions, tmp_path):
    saved, loaded = (nn.Sequential(sx.SparseLinear(12, 9, layout=layout)) for _ in range(2))
    state = [get_model_state_dict(model) if by_functions else model.state_dict() for model in (saved, loaded)]
    dcp.save(state[0], checkpoint_id=tmp_path, no_dist=True)
    dcp.load(state[1], checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(loaded, state[1]) if by_functions else loaded.load_state_dict(state[1])
    assert_same(loaded[0], saved[0], KINDS["linear"].input())
