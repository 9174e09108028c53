"""torch.compile, torch.export, torch.func: the eager result, one graph, and no compilation per batch size."""

import copy

import pytest
import torch
from cases import TOLERANCE
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from sparse_ext import RigL, SparseLinear, Sparsifier, count_flops, sparsify_
from sparse_ext import functional as SF
from sparse_ext.ops import LAYOUTS, CandidateSink, GradientTotal, auto

CLOSE = TOLERANCE[torch.float32]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outcome(model, layers, x):
    """y, all gradients, and the watched layers' dense gradients of one forward and backward pass."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    grads = [parameter.grad.clone() for layer in layers for parameter in layer.parameters()]
    watches = [layer.unwatch() for layer in layers]
    return [y.detach(), x.grad, *grads], [watch and watch.sink.total for watch in watches]


def watch(layer):
    layer.watch(GradientTotal(layer.weight, layer.product))


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("watched", [False, True])
def test_inductor_gives_the_eager_result(watched):
    layers = [SparseLinear(16, 32, sparsity=0.8), SparseLinear(32, 8, sparsity=0.5)]
    model = nn.Sequential(layers[0], nn.GELU(), layers[1])
    compiled, x = torch.compile(model, fullgraph=True), torch.randn(4, 5, 16)
    results = []
    for run in (model, compiled):
        if watched:
            for layer in layers:
                watch(layer)
        results.append(outcome(run, layers, x))
    (eager, eager_totals), (got, totals) = results
    assert_same(got, eager)
    assert_same(totals, eager_totals)
    assert all((total is not None) == watched for total in totals)


def test_watches_come_and_go_between_compiled_steps():
    """Two programs, watched and not; every watch has a buffer of its own."""
    layer, counter = SparseLinear(16, 8, sparsity=0.8), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for step in range(8):
        if step % 2:
            watch(layer)
        x = torch.randn(6, 16)
        got, (total,) = outcome(compiled, [layer], x)
        assert_same(got, outcome(layer, [layer], x)[0])
        assert (total is not None) == bool(step % 2)
        if step % 2:
            torch.testing.assert_close(total, (2 * got[0]).T @ x, **CLOSE)
    assert counter.frame_count <= 2


def test_streamed_growth_has_one_program():
    """However many candidates there are: a schedule grows fewer and fewer."""
    layer, counter = SparseLinear(16, 8, sparsity=0.5), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for candidates in (9, 7, 5, 2):
        x = torch.randn(6, 16)
        layer.watch(CandidateSink(layer.weight, lambda: layer.pattern, candidates))
        compiled(x).sum().backward()
        seen = layer.unwatch()
        assert seen.passes == 1
        best, dense = seen.sink.candidates, torch.ones(8, 6) @ x
        assert best.position.numel() == candidates
        torch.testing.assert_close(best.score, dense.view(-1)[best.position], **CLOSE)
        outcome(compiled, [layer], x)
    assert counter.frame_count <= 2  # watched and not


def test_compiled_code_reports_only_what_is_accumulated():
    """As eager code: autograd.grad with respect to the input does not count, and neither does what zero_grad discards."""
    layer = SparseLinear(16, 8, sparsity=0.5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    watch(layer)
    first, second, third = (torch.randn(6, 16, requires_grad=True) for _ in range(3))
    torch.autograd.grad(compiled(first).square().sum(), first)
    compiled(second).sum().backward()
    layer.zero_grad()
    compiled(third).sum().backward()
    seen = layer.unwatch()
    assert seen.passes == 1
    torch.testing.assert_close(seen.sink.total, torch.ones(8, 6) @ third.detach(), **CLOSE)


def test_batches_of_any_size_share_a_program():
    layer, counter = SparseLinear(16, 8, sparsity=0.8), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for size in (5, 6, 7, 33, 64, 128, 1000):
        x = torch.randn(size, 16)
        assert_same(outcome(compiled, [layer], x)[0], outcome(layer, [layer], x)[0])
    assert counter.frame_count <= 2  # the first size, then any


def test_marked_batches_compile_once():
    layer, counter = SparseLinear(16, 8, sparsity=0.8), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for size in (5, 64, 7):
        x = torch.randn(size, 3, 16)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), layer(x), **CLOSE)
    assert counter.frame_count == 1


def test_a_compiled_layer_follows_its_pattern():
    """Regrowth and loading rewrite the pattern behind the program's back."""
    layer, counter = SparseLinear(16, 8, sparsity=0.8), CompileCounterWithBackend("aot_eager")
    compiled, x = torch.compile(layer, backend=counter, fullgraph=True), torch.randn(6, 16)
    outcome(compiled, [layer], x)
    for change in (
        layer.reset_parameters,
        lambda: layer.load_state_dict(SparseLinear(16, 8, sparsity=0.8).state_dict()),
        lambda: layer.load_state_dict(nn.Linear(16, 8).state_dict()),
    ):
        change()
        assert_same(outcome(compiled, [layer], x)[0], outcome(layer, [layer], x)[0])
    assert counter.frame_count == 1


def nm24(rule=None):
    """A 2:4 layer, packed or with a dense weight of which products take a part by `rule`."""
    layer = SparseLinear(16, 8, layout="2:4", capacity=0.5 if rule is None else 1.0)
    if rule is not None:
        layer.choose_(rule)
    return layer


@pytest.mark.parametrize("rule", [None, "largest", "transposable", "soft"])
def test_a_compiled_2_4_layer(rule):
    layer, counter = nm24(rule), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for size in (5, 7, 33):
        x = torch.randn(size, 16)
        assert_same(outcome(compiled, [layer], x)[0], outcome(layer, [layer], x)[0])
    assert counter.frame_count <= 2
    for change in (layer.reset_parameters, lambda: layer.load_state_dict(nn.Linear(16, 8).state_dict())):
        change()
        assert_same(outcome(compiled, [layer], x)[0], outcome(layer, [layer], x)[0])
    assert counter.frame_count <= 2 or rule == "soft"  # other weights have another scale, a constant of the program


@pytest.mark.slow
def test_inductor_samples_gradients_as_eager_does():
    torch.manual_seed(0)
    layer, x = nm24("transposable"), torch.randn(9, 16)
    compiled, results = torch.compile(layer, fullgraph=True), []
    for run in (layer, compiled):
        layer.sample_gradient(torch.tensor([7, 0]))
        results.append([outcome(run, [layer], x)[0] for _ in range(3)])
        assert layer.rng.tolist() == [7, 3]
    for eager, got in zip(*results, strict=True):
        assert_same(got, eager)
    assert not torch.equal(results[0][0][2], results[0][1][2])


def test_compiled_under_autocast_and_no_grad():
    layer = SparseLinear(16, 8, sparsity=0.8)
    compiled, x = torch.compile(layer, backend="aot_eager", fullgraph=True), torch.randn(6, 16)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), layer(x))
        assert compiled(x).dtype == torch.bfloat16


def test_compiled_functions():
    pattern, weight = (layer := SparseLinear(16, 8, sparsity=0.8)).pattern, layer.weight.detach()
    a, b, x = torch.randn(8, 5), torch.randn(5, 16), torch.randn(16, 3)
    for function in (lambda: SF.spmm(weight, pattern, x), lambda: SF.sddmm(pattern, a, b)):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(), function(), **CLOSE)


def test_bad_shapes_are_refused_while_compiling():
    compiled = torch.compile(SparseLinear(16, 8), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="expected x with 16 columns"):
        compiled(torch.randn(2, 15))


@pytest.mark.parametrize("grad", [True, False])
def test_export(grad):
    model = nn.Sequential(SparseLinear(16, 32, sparsity=0.8), nn.ReLU(), SparseLinear(32, 8, sparsity=0.5)).eval()
    with torch.set_grad_enabled(grad):
        program = torch.export.export(model, (torch.randn(4, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for size in (2, 9):
            x = torch.randn(size, 16)
            torch.testing.assert_close(program.module()(x), model(x), **CLOSE)
            torch.testing.assert_close(program.run_decompositions().module()(x), model(x), **CLOSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dynamic_program_serves_any_number_of_tokens(layout):
    layer, counter = SparseLinear(16, 8, layout=layout), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    for programs, shapes in ((1, ((5,), (6,), (300,))), (2, ((2, 3), (4, 5), (70, 9)))):
        for shape in shapes:
            x = torch.randn(*shape, 16)
            assert_same(outcome(compiled, [layer], x)[0], outcome(layer, [layer], x)[0])
        assert counter.frame_count == programs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_with_any_batch_and_length(layout):
    layer, sizes = SparseLinear(16, 8, layout=layout).eval(), (torch.export.Dim("batch"), torch.export.Dim("length"))
    program = torch.export.export(layer, (torch.randn(4, 6, 16),), dynamic_shapes=(dict(enumerate(sizes)),)).module()
    for shape in ((2, 3), (9, 70)):
        x = torch.randn(*shape, 16)
        torch.testing.assert_close(program(x), layer(x), **CLOSE)


def test_functional_call():
    layer, x = SparseLinear(16, 8, sparsity=0.8), torch.randn(4, 16)
    doubled = {name: 2 * parameter.detach() for name, parameter in layer.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(layer, doubled, (x,)), 2 * layer(x), **CLOSE)


@pytest.mark.parametrize("density", [0.1, 0.9], ids=["dense", "sparse"])
def test_auto_chooses_while_compiling(monkeypatch, density):
    name = auto.device_name(torch.device("cpu"))
    table = {(name, torch.float32, product): (auto.Row(5, 384, 0, density),) for product in auto.PRODUCTS}
    monkeypatch.setattr(auto.POLICY, "table", table)
    layer = SparseLinear(24, 16, sparsity=0.7, layout="auto")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for tokens in (5, 6, 7):
        x = torch.randn(tokens, 24)
        flops = count_flops(lambda x=x: layer(x))
        assert flops == 2 * tokens * (24 * 16 if density == 0.1 else layer.nnz)
        torch.testing.assert_close(compiled(x), layer(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("layout", ["csr", "2:4"])
def test_one_program_serves_all_blocks_of_a_model(layout):
    """As PyTorch compiles large models, block by block; more programs than a limit of its own it refuses."""
    model = sparsify_(nn.Sequential(*(Block() for _ in range(12))), layout=layout, distribution="uniform")
    x, counter = torch.randn(4, 16), CompileCounterWithBackend("aot_eager")
    expected = model(x)
    for block in model:
        block.compile(backend=counter, fullgraph=True)
    assert torch.equal(model(x), expected)
    assert counter.frame_count == 2  # as of dense layers: the first block's input needs no gradient
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, RigL(update_interval=2, t_end=1.0), total_steps=20)
    for _ in range(4):
        model(x).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert counter.frame_count == 4  # with and without the observation of the dense gradient
    for block, plain in zip(model, copy.deepcopy(model), strict=True):
        torch.testing.assert_close(block(x), plain.forward(x), **CLOSE)
