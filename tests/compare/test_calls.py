"""Calls of modules that are run once more, alone, do what the step did."""

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.compare.calls import record


def step_of(model, *shape):
    x = torch.randn(*shape)
    return lambda: model(x).square().sum().backward()


def test_gradients_are_those_of_the_step():
    """Of sparse layers and of modules within modules as well; `.grad` is left alone."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(sx.SparseLinear(8, 8, sparsity=0.5), nn.Linear(8, 4)))
    calls = record(model, step_of(model, 3, 6))
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert [(call.name, call.writes) for call in calls] == [("0", False), ("1", False), ("2", False)]
    for call in calls:
        run = call.backward()
        run()
        found = run()
        own = found[len(found) - len(list(call.module.parameters())) :]
        for (name, _), gradient in zip(call.module.named_parameters(prefix=call.name), own, strict=True):
            assert torch.equal(gradient, expected[name])
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, ["0", "1"]), ({"1.0", "1.1"}, ["1.0", "1.1"]), ({"1", "1.0"}, ["1"]), ({"0.0", "1"}, ["1"])],
)
def test_only_the_outermost_calls_are_kept(names, expected):
    """A module that the step does not call, as a list of layers, is none; its layers are."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert [call.name for call in record(model, step_of(model, 2, 4), names)] == expected


def test_layers_of_a_list_and_layers_that_are_called_twice():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x):
            return self.layers[1](self.layers[0](self.layers[0](x)))

    model = Loop()
    assert [call.name for call in record(model, step_of(model, 2, 4))] == ["layers.0", "layers.0", "layers.1"]


def test_a_module_that_writes_into_its_input_can_be_repeated():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    linear, relu = record(model, step_of(model, 2, 4))
    assert (linear.writes, relu.writes) == (False, True)
    relu.backward()()
    before = relu.inputs[0][0].clone()
    relu.forward()
    assert torch.equal(relu.inputs[0][0], before)


def test_autocast_is_that_of_the_step():
    model = nn.Sequential(nn.Linear(4, 4))

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 4)).float().sum().backward()

    (call,) = record(model, step)
    assert call.forward()[0].dtype == torch.bfloat16
    call.backward()()
    (call,) = record(model, step_of(model, 2, 4))
    assert call.forward()[0].dtype == torch.float32


def test_what_has_no_gradient_has_no_backward_pass():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    relu, linear = record(model, step_of(model, 2, 4))
    assert relu.backward() is None
    assert linear.backward() is not None


def test_no_hooks_are_left():
    """Not even of a step that fails."""
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        record(model, step_of(model, 2, 5))
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks
