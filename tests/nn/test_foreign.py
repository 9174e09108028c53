"""torch.fx: sparse layers are leaves of every tracer, so traced programs follow patterns and weights as the model does."""

import copy

import pytest
import torch
from kinds import KINDS
from torch import nn
from torch.fx import Tracer, symbolic_trace

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS


class OwnLeaves(Tracer):
    """As torchvision's feature extractors: only what is listed is a leaf, and nodes are named by the module that is called."""

    def __init__(self):
        super().__init__()
        self.current, self.names = "", {}

    def is_leaf_module(self, module, name):
        return False

    def call_module(self, module, forward, args, kwargs):
        outer, self.current = self.current, self.path_of_module(module)
        try:
            return forward(*args, **kwargs)
        finally:
            self.current = outer

    def create_proxy(self, *args, **kwargs):
        proxy = super().create_proxy(*args, **kwargs)
        self.names[proxy.node] = self.current
        return proxy


def model_of(kind, layout):
    return nn.Sequential(nn.Tanh(), KINDS[kind].made(layout=layout), nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_is_a_leaf(layout, kind):
    model, x = model_of(kind, layout), KINDS[kind].input()
    traced = symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2.0"]
    assert traced.get_submodule("1") is model[1]
    assert torch.equal(traced(x), model(x))
    model[1].reset_parameters()  # another pattern
    assert torch.equal(traced(x), model(x))
    assert torch.equal(copy.deepcopy(symbolic_trace(traced))(x), model(x))


def test_what_the_layer_adds_to_a_convolution_stays_inside():
    """Padding that copies the input, and the memory format."""
    model = nn.Sequential(sx.SparseConv2d(3, 9, 3, padding="same", padding_mode="reflect"))
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    traced = symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert traced(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_leaf_to_tracers_that_have_their_own(kind):
    model, tracer = model_of(kind, "csr"), OwnLeaves()
    graph = tracer.trace(model)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    assert [(node.target, tracer.names[node]) for node in calls] == [("1", "1")]
    assert torch.equal(torch.fx.GraphModule(model, graph)(KINDS[kind].input()), model(KINDS[kind].input()))


def test_hooks_would_run_twice():
    """While tracing, and in the program."""
    model, x = nn.Sequential(sx.SparseLinear(12, 9)), torch.randn(5, 12)
    hook = model[0].register_forward_hook(lambda layer, args, y: 2 * y)
    with pytest.raises(ValueError, match=r"expected '0' without hooks, .* make SparseLinear a leaf of the tracer"):
        symbolic_trace(model)
    hook.remove()
    traced = symbolic_trace(model)
    model[0].register_forward_hook(lambda layer, args, y: 2 * y)
    assert torch.equal(traced(x), model(x))


def test_a_bare_layer_is_refused():
    with pytest.raises(ValueError, match=r"expected a model that contains layers, .* trace nn.Sequential\(layer\)"):
        symbolic_trace(sx.SparseLinear(4, 3))
