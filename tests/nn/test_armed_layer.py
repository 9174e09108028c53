"""A layer armed for streamed growth: what it keeps, what that costs, and when it lets go of it."""

import itertools

import pytest
import torch
from torch._C._profiler import _EventType

from sparse_ext import SparseLinear
from sparse_ext.ops import regrow


def peak_bytes(function):
    """The most memory that tensors had at once, beyond what there was before: every allocation, as torch's profiler sees it."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events, found = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    return max(itertools.accumulate(size for _, size in sorted(found)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_is_a_tile_and_the_entries(dtype, monkeypatch):
    """Beyond an unarmed backward pass; the dense gradient has 8 MB, and the summed form needs them."""
    torch.set_num_threads(1)
    monkeypatch.setitem(regrow.TILE, "cpu", 1 << 16)
    layer, x = SparseLinear(1024, 2048, sparsity=0.98, dtype=dtype), torch.randn(4, 1024, dtype=dtype)

    def step(arm):
        arm()
        layer(x).sum().backward()

    def peak(arm):
        step(arm)  # what is allocated once
        layer.take_growth()
        bytes_ = peak_bytes(lambda: step(arm))
        layer.take_growth()
        return bytes_

    unarmed = peak(lambda: None)
    tile, histogram, dense = 4 << 16, 8 << 16, 4 * 1024 * 2048
    few = 2 * tile + histogram + 32 * layer.nnz
    assert few < dense / 3
    assert peak(lambda: layer.arm_growth(candidates=layer.nnz // 3)) - unarmed < few
    assert peak(layer.arm_growth) - unarmed > dense


def armed():
    layer = SparseLinear(6, 4, sparsity=0.5)
    layer.arm_growth(candidates=3)
    layer(torch.randn(5, 6)).sum().backward()
    assert int(layer.growth.passes) == 1
    return layer


def broadcast(layer):
    """Another pattern in the buffers, as DDP or an average of models writes it."""
    layer.col_idx[: layer.nnz] = torch.arange(layer.nnz) % 3
    layer.row_ptr.copy_(torch.arange(0, layer.nnz + 1, 3))
    layer(torch.randn(1, 6))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.reset_parameters(),
        lambda layer: layer.load_state_dict(SparseLinear(6, 4, sparsity=0.5).state_dict()),
        lambda layer: layer.load_state_dict(SparseLinear(6, 4, sparsity=0.5).state_dict(), assign=True),
        lambda layer: layer.enlarge_(20),
        broadcast,
    ],
    ids=["reset", "load", "assign", "enlarge", "broadcast"],
)
def test_another_pattern_disarms(change):
    layer = armed()
    change(layer)
    assert layer.growth is None


def test_another_pattern_before_the_pass_is_the_one_that_counts():
    layer = SparseLinear(6, 4, sparsity=0.5)
    layer.arm_growth(candidates=3)
    layer.reset_parameters()
    x, dy = torch.randn(5, 6), torch.randn(5, 4)
    layer(x).backward(dy)
    best = layer.take_growth().kept
    dense = dy.T @ x
    torch.testing.assert_close(best.at_entry, dense[layer.mask()])
    assert not layer.mask().view(-1)[best.position].any()
    torch.testing.assert_close(best.score, dense.view(-1)[best.position])


def test_the_same_pattern_does_not_disarm():
    """DDP broadcasts the buffers before every forward."""
    layer = armed()
    layer.col_idx.copy_(layer.col_idx.clone())
    layer(torch.randn(1, 6))
    assert layer.growth is not None


def test_uses_are_counted_with_gradients_only():
    layer, x = SparseLinear(6, 4, sparsity=0.5), torch.randn(5, 6)
    with torch.no_grad():
        layer(x)
    assert layer.take_uses() == 0
    layer(layer(x) @ torch.randn(4, 6))
    assert layer.take_uses() == 2
    assert layer.take_uses() == 0
