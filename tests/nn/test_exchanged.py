"""Buffers that somebody exchanged or wrote behind a layer: it multiplies what they say, or refuses."""

import copy

import pytest
import torch
from exchanges import CLOSE, LAYERS, SEEN, UNSEEN, X, assert_same, give, made, outcome, put
from torch.func import functional_call, stack_module_state

from sparse_ext import SparseLinear
from sparse_ext import functional as SF
from sparse_ext.ops import GradientTotal
from sparse_ext.ops.boundary import checks


@pytest.mark.parametrize("way", [name for name in SEEN if name != "set_"])
@pytest.mark.parametrize("layer", LAYERS)
def test_other_tensors_are_multiplied(layer, way):
    """Also by the passes that came before, and again when the first ones come back."""
    layer, others = made(layer), [made(layer) for _ in range(2)]
    first = copy.deepcopy(layer)
    outcome(layer)
    for other in (*others, first):
        give(layer, other, SEEN[way])
        assert torch.equal(layer.dense_weight(), other.dense_weight())
        assert_same(outcome(layer), outcome(other))
        assert torch.equal(layer.mask(), other.mask())
        with torch.no_grad():
            assert torch.equal(layer(X), other(X))


@pytest.mark.parametrize("layer", LAYERS)
def test_buffers_that_were_set(layer):
    layer, other = made(layer), made(layer)
    for name in layer._names:
        getattr(layer, name).set_(getattr(other, name).clone())
    layer.weight.data = other.weight.data
    layer.bias.data = other.bias.data
    assert_same(outcome(layer), outcome(other))


@pytest.mark.parametrize("way", UNSEEN)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_no_counter_sees_is_found_by_debug_mode(layer, way, monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    layer, other = made(layer), made(layer)
    layer(X)
    give(layer, other, UNSEEN[way])
    for use in (layer, lambda _: layer.dense_weight(), lambda _: layer.mask()):
        with pytest.raises(RuntimeError, match=r"expected a write that PyTorch counts, .*call the layer's sync\(\)"):
            use(X)
    layer.sync()
    assert_same(outcome(layer), outcome(other))


@pytest.mark.parametrize("way", UNSEEN)
@pytest.mark.parametrize("layer", LAYERS)
def test_sync_finds_what_no_counter_sees(layer, way):
    layer, other = made(layer), made(layer)
    give(layer, other, UNSEEN[way])
    layer.sync()
    assert_same(outcome(layer), outcome(other))


@pytest.mark.parametrize("layer", LAYERS)
def test_shared_memory_is_compared_by_content(layer):
    """Another process's writes raise no counter here."""
    layer, other = made(layer).share_memory(), made(layer)
    assert_same(outcome(layer), outcome(copy.deepcopy(layer)))
    give(layer, other, UNSEEN["numpy"])
    assert_same(outcome(layer), outcome(other))


def test_invalid_tensors_change_nothing():
    layer, other = SparseLinear(4, 3, sparsity=0.5), SparseLinear(4, 3, sparsity=0.5)
    before, own = layer(X[:, :4]), dict(layer.named_buffers())
    layer.row_ptr, layer.col_idx = torch.tensor([0, 6, 6, 6]).int(), torch.tensor([0, 1, 3, 2, 1, 0]).int()
    for use in (layer, lambda _: layer.mask()):
        with pytest.raises(ValueError, match=r"ascending .*got 3 then 2"):
            use(X[:, :4])
    layer.row_ptr = own["row_ptr"]
    layer.col_idx = other.col_idx.long()
    with pytest.raises(ValueError, match=r"col_idx: expected dtype torch.int32, got torch.int64"):
        layer(X[:, :4])
    layer.col_idx = own["col_idx"]
    assert torch.equal(layer(X[:, :4]), before)


@pytest.mark.parametrize("size", [5, 12])
def test_another_capacity_takes_another_weight(size):
    """A pattern of another capacity, in place of its own: right with the weight that belongs to it, refused without."""
    layer, other = SparseLinear(4, 3, sparsity=0.5), SparseLinear(4, 3, sparsity=1 - size / 12)
    for name in layer._names:
        setattr(layer, name, getattr(other, name))
    with pytest.raises(ValueError, match=rf"expected weight of shape \({size},\).* got \(6,\)"):
        layer(X[:, :4])
    layer.weight, layer.bias = other.weight, other.bias
    assert torch.equal(layer(X[:, :4]), other(X[:, :4]))


def test_several_passes_before_their_backward_pass():
    """Operands that an earlier pass keeps are not overwritten."""
    layer, others = SparseLinear(16, 8), [SparseLinear(16, 8) for _ in range(3)]
    x, loss, want = X.clone().requires_grad_(), 0.0, 0.0
    for other in others:
        give(layer, other, put)
        loss, want = loss + layer(x).sum(), want + other.dense_weight().sum(0).expand(5, 16)
    loss.backward()
    torch.testing.assert_close(x.grad, want, **CLOSE)


def test_a_watched_weight_with_another_pattern():
    """What growth has seen of the first is let go; a functional call with other weights does not count."""
    layer, other = SparseLinear(16, 8), SparseLinear(16, 8)
    sink = layer.watch(GradientTotal(layer.weight, layer.product)).sink
    changes = []
    sink.pattern_changed_ = lambda: changes.append(1)
    functional_call(layer, dict(other.state_dict()), (X,))
    layer(X)
    assert not changes
    for name in layer._names:
        setattr(layer, name, getattr(other, name))
    layer(X)
    assert changes == [1]


# ---- states that are applied ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_ensemble_by_functional_call(layer, where):
    base, models = made(layer), [made(layer) for _ in range(3)]
    addresses, own = [tensor.data_ptr() for tensor in base._operands], copy.deepcopy(base)
    base = base if where == "cpu" else copy.deepcopy(base).to(where)
    for model in (*models, models[0]):
        state = (dict(model.named_parameters()), dict(model.named_buffers()))
        assert_same(outcome(model, lambda x, state=state: functional_call(base, state, (x,))), outcome(model))
    if where == "cpu":
        assert_same(outcome(base), outcome(own))
        assert [tensor.data_ptr() for tensor in base._operands] == addresses


@pytest.mark.parametrize("layer", LAYERS)
def test_a_meta_layer_is_not_called_with_weights_alone(layer):
    model = made(layer)
    with pytest.raises(ValueError, match=r"expected the buffers on cpu \(as the weight\), got .* on meta; load or pass them"):
        functional_call(copy.deepcopy(model).to("meta"), dict(model.named_parameters()), (X,))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_of_patterns_is_refused(layer):
    models = [made(layer) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    with pytest.raises(
        ValueError, match=r"expected one pattern for the whole batch, got a batch of patterns .*functional_call"
    ):
        torch.vmap(lambda p, b: functional_call(models[0], (p, b), (X,)))(parameters, buffers)


@pytest.mark.parametrize("layer", LAYERS)
def test_replicas_have_buffers_of_their_own(layer):
    """As nn.DataParallel makes them; the layer itself is as it was."""
    layer, other = made(layer), made(layer)
    replica = layer._replicate_for_data_parallel()
    for name, tensor in other.state_dict().items():
        (replica._buffers.__setitem__ if name in layer._buffers else replica.__dict__.__setitem__)(name, tensor)
    active = layer._active
    assert torch.equal(replica(X), other(X))
    assert layer._active is active


# ---- patterns in functions ---------------------------------------------------------------------------------------------------


def test_functions_follow_a_pattern_that_is_written():
    layer, other = SparseLinear(16, 8), SparseLinear(16, 8)
    pattern = layer.pattern
    SF.csr_linear(X, layer.weight, layer.bias, pattern)
    with torch.no_grad():
        for name, tensor in other.pattern.buffers.items():
            pattern.buffers[name].copy_(tensor)
    assert torch.equal(SF.csr_linear(X, other.weight, other.bias, pattern), other(X))
    pattern.col_idx.zero_()
    with pytest.raises(ValueError, match="csr pattern: expected columns ascending"):
        SF.csr_linear(X, other.weight, other.bias, pattern)
