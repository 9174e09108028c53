"""A fault at any point of an update: every layer, gradient, optimizer tensor and counter is as before, and training goes on."""

import copy
from dataclasses import dataclass

import pytest
import torch
from sampling import others_slow
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training import CHANGING, OPTIMIZERS, assert_same, backward, everything, method_named, mlp, run

from sparse_ext import Sparsifier
from sparse_ext.methods import Method, Switch, Time
from sparse_ext.nn import sparse_layers
from sparse_ext.train.managed import ManagedLayer
from sparse_ext.train.undo import Undo


class Fault(BaseException):
    """As KeyboardInterrupt, it is no Exception."""


class FaultAt(TorchDispatchMode):
    """Raises in place of the n-th operation that PyTorch carries out."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.left -= 1
        if self.left == 0:
            raise Fault(function)
        return function(*args, **(kwargs or {}))


def state_of(model, copied, optimizer, sparsifier):
    """All that an update changes, by name, as copies; where tensors are, too."""
    layers = {**sparse_layers(model), **{f"copy of {name}": layer for name, layer in sparse_layers(copied).items()}}
    found = everything(model, optimizer) | {f"copy.{key}": value.clone() for key, value in copied.state_dict().items()}
    for name, layer in layers.items():
        found |= {f"{name}.{key}": value for key, value in vars(layer).items() if isinstance(value, str | int | bool)}
        found |= {f"{name}.operand {i}": tensor.clone() for i, tensor in enumerate(layer._operands)}
        found[f"{name}.at"] = (layer.weight.data_ptr(), [one.data_ptr() for one in layer.buffers()], layer.chosen_by)
        if layer.weight.grad is not None:
            found[f"{name}.grad"] = layer.weight.grad.clone()
    state = sparsifier.state_dict()
    found |= {f"coverage of {name}": tensor.clone() for name, tensor in state.pop("coverage").items()}
    for name, signals in state.pop("signals").items():
        found |= {f"{name}.{s}.{key}": t.clone() for s, tensors in signals.items() for key, t in tensors.items()}
    return found | {"state": copy.deepcopy(state)}


@dataclass(frozen=True)
class Tail(Method):
    """Resizes the weights."""

    def is_update(self, time):
        return time.step == 3

    def plan(self, layers, time):
        return dict.fromkeys(layers, Switch("dense")) if time.step >= 3 else {}


def trained_until_the_update(method, layout):
    model = mlp(layout=layout, method=method)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    choices = {"update_interval": 3, "refresh_interval": 3, "t_end": 1.0, "dense_tail": 0.0}
    method = Tail() if method == "tail" else method_named(method, **choices)
    sparsifier = Sparsifier(model, optimizer, method, total_steps=30)
    copied = copy.deepcopy(model)
    sparsifier.track(copied)
    first = next(step for step in range(3, 30) if method.is_update(Time(step, 30)))
    run(model, optimizer, sparsifier, range(1, first))
    backward(model, first)
    optimizer.step()
    for managed in sparsifier._layers:  # the signals have seen this step, whatever becomes of the update
        managed.observation.end()
    return model, copied, optimizer, sparsifier


def operations_of_an_update(method, layout):
    """How many operations `Sparsifier._update` carries out."""
    *_, sparsifier = trained_until_the_update(method, layout)
    count = FaultAt(-1)
    with_count(sparsifier, count)
    assert sparsifier.step()
    return -1 - count.left


def with_count(sparsifier, mode):
    """Has the mode see the update alone."""
    update = sparsifier._update

    def counted():
        with mode:
            return update()

    sparsifier._update = counted


@pytest.mark.parametrize(("method", "layout"), others_slow([*CHANGING, ("tail", "csr"), ("ac/dc", "auto")]))
def test_a_fault_at_any_operation_of_an_update_changes_nothing(method, layout):
    operations = operations_of_an_update(method, layout)
    assert operations > 10
    expected = None
    for number in [*range(1, operations, max(1, operations // 8)), operations]:
        model, copied, optimizer, sparsifier = trained_until_the_update(method, layout)
        before, sample = state_of(model, copied, optimizer, sparsifier), torch.randn(3, 12)
        y = model(sample)
        with_count(sparsifier, FaultAt(number))
        with pytest.raises(Fault):
            sparsifier.step()
        del sparsifier._update
        assert_same(state_of(model, copied, optimizer, sparsifier), before)
        assert torch.equal(model(sample), y)
        assert torch.equal(copied(sample), copied(sample))
        assert sparsifier.step()  # the update is made up for, as if nothing had been
        after = state_of(model, copied, optimizer, sparsifier)
        after = {key: value for key, value in after.items() if not key.endswith((".at", "._handle"))}
        if expected is not None:
            assert_same(after, expected)
        expected = after


@pytest.mark.parametrize("name", ["carry_out", "keep", "check"])
def test_a_fault_in_the_second_layer_leaves_the_first_as_it_was(name, monkeypatch):
    model, copied, optimizer, sparsifier = trained_until_the_update("rigl", "csr")
    before, whole = state_of(model, copied, optimizer, sparsifier), getattr(ManagedLayer, name)

    def failing(self, *args):
        if self.name == "2":
            raise MemoryError("out of memory")
        return whole(self, *args)

    monkeypatch.setattr(ManagedLayer, name, failing)
    for _ in range(2):
        with pytest.raises(MemoryError):
            sparsifier.step()
        assert_same(state_of(model, copied, optimizer, sparsifier), before)
    monkeypatch.undo()
    assert sparsifier.step()
    assert run(model, optimizer, sparsifier, range(4, 10)) == 2


def test_what_was_kept_stays_changed_where_nothing_failed():
    values, holder = torch.zeros(3), nn.Module()
    holder.numbers = [1]
    with Undo() as undo:
        undo.keep_tensor(values)
        undo.keep_attributes(holder)
        values.add_(1)
        holder.numbers.append(2)
    assert (values.tolist(), holder.numbers) == ([1, 1, 1], [1, 2])


def test_all_is_put_back_though_something_cannot_be():
    values, holder = torch.zeros(3), nn.Module()
    holder.one, holder.other = torch.zeros(2), {"a": torch.zeros(2)}

    def failing():
        with Undo() as undo:
            undo.keep_tensor(values)
            undo.keep_attributes(holder)
            undo._steps.callback(lambda: 1 / 0)
            values.add_(1)
            holder.other["a"] = torch.ones(2)
            raise Fault

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (values.tolist(), holder.other["a"].tolist()) == ([0, 0, 0], [0, 0])
