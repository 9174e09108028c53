"""A layer whose gradient is watched for candidates: what they are, what that costs, and when they are let go."""

import itertools

import pytest
import torch
from torch._C._profiler import _EventType

from sparse_ext import SparseLinear
from sparse_ext.ops import CandidateSink, GradientTotal, product


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


def watch(layer, size=3):
    """Keeps that many candidates of the next backward pass."""
    return layer.watch(CandidateSink(layer.weight, lambda: layer.pattern, size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_is_a_tile_and_the_entries(dtype, monkeypatch):
    """Beyond a backward pass that nobody watches; the dense gradient has 8 MB, and a total needs them."""
    torch.set_num_threads(1)
    monkeypatch.setitem(product.TILE, "cpu", 1 << 16)
    layer, x = SparseLinear(1024, 2048, sparsity=0.98, dtype=dtype), torch.randn(4, 1024, dtype=dtype)

    def step(begin):
        begin()
        layer(x).sum().backward()

    def peak(begin):
        step(begin)  # what is allocated once
        layer.unwatch()
        bytes_ = peak_bytes(lambda: step(begin))
        layer.unwatch()
        return bytes_

    unwatched = peak(lambda: None)
    tile, histogram, dense = 4 << 16, 8 << 16, 4 * 1024 * 2048
    few = 2 * tile + histogram + 32 * layer.nnz
    assert few < dense / 3
    assert peak(lambda: watch(layer, layer.nnz // 3)) - unwatched < few
    assert peak(lambda: layer.watch(GradientTotal(layer.weight, layer.product))) - unwatched > dense


def watched():
    layer = SparseLinear(6, 4, sparsity=0.5)
    watch(layer)
    layer(torch.randn(5, 6)).sum().backward()
    assert layer.watched.passes == 1
    assert layer.watched.sink.candidates is not None
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
def test_candidates_of_another_pattern_are_let_go(change):
    layer = watched()
    sink = layer.watched.sink
    change(layer)
    assert sink.candidates is None
    assert not sink.is_finite()


def test_another_pattern_before_the_pass_is_the_one_that_counts():
    layer = SparseLinear(6, 4, sparsity=0.5)
    watch(layer)
    layer.reset_parameters()
    x, dy = torch.randn(5, 6), torch.randn(5, 4)
    layer(x).backward(dy)
    best = layer.unwatch().sink.candidates
    dense = dy.T @ x
    torch.testing.assert_close(best.at_entry, dense[layer.mask()])
    assert not layer.mask().view(-1)[best.position].any()
    torch.testing.assert_close(best.score, dense.view(-1)[best.position])


def test_the_same_pattern_changes_nothing():
    """DDP broadcasts the buffers before every forward."""
    layer = watched()
    layer.col_idx.copy_(layer.col_idx.clone())
    layer(torch.randn(1, 6))
    assert layer.watched.sink.candidates is not None


def test_a_second_accumulation_spoils_candidates():
    layer = watched()
    layer(torch.randn(5, 6)).sum().backward()
    watch = layer.unwatch()
    assert (watch.passes, watch.sink.candidates) == (2, None)
