"""Patterns that are written in place: forward passes follow, eager and compiled, and on CUDA wait for no device."""

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS, OPS, GradientTotal, auto

CLOSE = TOLERANCE[torch.float32]
WITH_BUFFERS = [name for name, layout in LAYOUTS.items() if layout.pattern.BUFFERS]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def write(layer, other):
    """Another layer's parameters and buffers, in place, as DDP writes them."""
    with torch.no_grad():
        for mine, its in zip((*layer.parameters(), *layer.buffers()), (*other.parameters(), *other.buffers()), strict=True):
            mine.copy_(its)


def outcome(run, layer, x):
    """y and all gradients, if there are any."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = run(x)
    if y.requires_grad:
        y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", WITH_BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_code_follows(kind, layout, backend, grad):
    """Without a recompilation; operands stay where they are."""
    layer, counter = KINDS[kind].made(layout=layout), CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    addresses = [tensor.data_ptr() for tensor in layer._operands]
    with torch.set_grad_enabled(grad):
        outcome(compiled, layer, KINDS[kind].input())
        for _ in range(3):
            other, x = KINDS[kind].made(layout=layout), torch.randn(KINDS[kind].x)
            write(layer, other)
            assert_same(outcome(compiled, layer, x), outcome(other, other, x))
            assert_same(outcome(layer, layer, x), outcome(other, other, x))
    assert [tensor.data_ptr() for tensor in layer._operands] == addresses
    assert counter.frame_count == 1


def test_batches_of_any_size_follow():
    layer, counter = SparseLinear(16, 8), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    for size in (5, 6, 7):
        other, x = SparseLinear(16, 8), torch.randn(size, 16)
        write(layer, other)
        assert_same(outcome(compiled, layer, x), outcome(other, other, x))
    assert counter.frame_count == 1


def test_a_state_dict_that_is_written():
    layer, other, x = SparseLinear(16, 8), SparseLinear(16, 8), torch.randn(5, 16)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(x)
    for name, tensor in layer.state_dict().items():
        tensor.copy_(other.state_dict()[name])
    assert_same([compiled(x)], [other(x)])


def test_what_compiled_code_finds_is_checked():
    layer = SparseLinear(4, 3, sparsity=0.5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(torch.randn(5, 4))
    layer.row_ptr.copy_(torch.tensor([0, 6, 6, 6]))
    layer.col_idx.copy_(torch.tensor([0, 1, 3, 2, 1, 0]))
    with pytest.raises(ValueError, match=r"ascending .*got 3 then 2"):
        compiled(torch.randn(5, 4))


def test_a_rule_is_a_constant_of_compiled_code():
    """Another one is refused, once: the next call compiles with it."""
    layer, other = (SparseLinear(16, 8, layout="2:4", capacity=1.0) for _ in range(2))
    other.choose_("transposable")
    compiled, x = torch.compile(layer, backend="aot_eager", fullgraph=True), torch.randn(5, 16)
    compiled(x)
    write(layer, other)
    with pytest.raises(
        RuntimeError, match=r"got Rule\(name='transposable'.* in place of Rule\(name='largest'.*call the layer's sync"
    ):
        compiled(x)
    assert_same([compiled(x)], [other(x)])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_several_layers_that_are_watched_and_checkpointed(backend):
    """Two forward passes before a backward pass, recomputation, and dense gradients."""
    results = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(SparseLinear(16, 16), nn.Tanh(), SparseLinear(16, 16), nn.Tanh())
        run = torch.compile(model, backend=backend, fullgraph=True) if compile_it else model
        for step in range(3):
            model.zero_grad()
            write(model[0], SparseLinear(16, 16))
            for layer in (model[0], model[2]):
                layer.watch(GradientTotal(layer.weight, layer.product))
            x = torch.randn(6, 16)
            y = run(x) + torch.utils.checkpoint.checkpoint(run, x + step, use_reentrant=False)
            y.square().sum().backward()
            results.append([*(p.grad.clone() for p in model.parameters())])
            results[-1] += [layer.unwatch().sink.total for layer in (model[0], model[2])]
    for eager, got in zip(results[:3], results[3:], strict=True):
        assert_same(got, eager)


# ---- without waiting --------------------------------------------------------------------------------------------------

WAITING = ("_local_scalar_dense", "equal", "item", "is_nonzero", "nonzero", "unique", "masked_select", "_to_cpu")


class NoWait(TorchDispatchMode):
    """Refuses what waits for a GPU, also inside of our operators."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2].partition(".")[0]
        if function.namespace == "sparse_ext":
            with self:
                return OPS[name].kernel(*args, **(kwargs or {}))
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        assert name not in WAITING, function.name()
        assert not by_mask, function.name()
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_cuda(monkeypatch, emulated):
    """Emulated kernels, and layers that do not read from their tensors."""
    for module in ("nn.bound", "ops.csr.auto", "ops.csr.auto_conv"):
        monkeypatch.setattr(f"sparse_ext.{module}.reading_waits", lambda tensor: True)
    monkeypatch.setattr(auto.POLICY, "table", {})


LAYERS = {name: {"layout": name} for name in WITH_BUFFERS} | {"2:4 dense weight": {"layout": "2:4", "capacity": 1.0}}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_forward_pass_waits(kind, layer, as_on_cuda):
    """DDP writes the buffers in front of every one, nearly always with what they hold."""
    layer, other = (KINDS[kind].made(**LAYERS[layer], dtype=torch.bfloat16) for _ in range(2))
    x = KINDS[kind].input().bfloat16().requires_grad_()
    for source in (layer, other, other):
        write(layer, source)
        with NoWait():
            y = layer(x)
        x.grad = None
        layer.zero_grad()
        y.square().sum().backward()
        got = [y, x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]
        assert all(torch.equal(*pair) for pair in zip(got, outcome(source, source, x), strict=True))


def test_two_forward_passes_before_a_backward_pass(as_on_cuda):
    """The broadcast between them spoils nothing."""
    layer, x, loss = SparseLinear(16, 8), torch.randn(5, 16, requires_grad=True), 0.0
    for _ in range(2):
        for buffer in layer.buffers():
            buffer.copy_(buffer.clone())
        loss = loss + layer(x).sum()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * layer.dense_weight().sum(0).expand(5, 16))


def test_another_rule_is_refused_on_the_device(as_on_cuda):
    layer, other = (SparseLinear(16, 8, layout="2:4", capacity=1.0, dtype=torch.bfloat16) for _ in range(2))
    other.choose_("transposable")
    write(layer, other)
    with pytest.raises(RuntimeError, match="got another one, which was written in place; call the layer's sync"):
        layer(torch.randn(5, 16, dtype=torch.bfloat16))
    layer.sync()
    assert layer.chosen_by == other.chosen_by
