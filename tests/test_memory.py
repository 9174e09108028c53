"""step_memory: bytes by hand, and against an account of its own of every tensor that a step makes."""

import os
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sparse_ext as sx
from sparse_ext.memory import bytes_of, index_tensors, step_memory
from sparse_ext.ops import OPS

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": torch.optim.AdamW,
}
MODELS = {
    "linear": (lambda: [nn.Linear(160, 320), nn.ReLU(), nn.Linear(320, 320), nn.ReLU(), nn.Linear(320, 16)], (48, 160)),
    "conv": (lambda: [nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1)], (6, 8, 14, 14)),
}


def made(model="linear", layout=None, optimizer="adamw"):
    """(step, model, optimizer)"""
    torch.manual_seed(0)
    layers, shape = MODELS[model]
    net, x = nn.Sequential(*layers()), torch.randn(shape)
    if layout is not None:
        sx.sparsify_(net, None if layout == "2:4" else 0.9, layout=layout, distribution="uniform")
    trains = OPTIMIZERS[optimizer](net.parameters())

    def step():
        net(x).square().mean().backward()
        trains.step()

    return step, net, trains


class Account(TorchDispatchMode):
    """Counts the memory of every tensor that an operator returns while it lives, and of those within our own kernels."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        ours = OPS.get(function._schema.name.removeprefix("sparse_ext::"))
        if ours is None:
            out = function(*args, **kwargs or {})
        else:
            with self:
                out = ours.kernel(*args, **kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage):
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("first", [True, False], ids=["first step", "second step"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layout", [None, "csr", "2:4"])
@pytest.mark.parametrize("model", MODELS)
def test_the_peak_is_that_of_all_tensors(model, layout, optimizer, first):
    totals = []
    for way in ("profiler", "account"):
        step, net, trains = made(model, layout, optimizer)
        if not first:
            step()
        if way == "profiler":
            totals.append(step_memory(step, net, trains).total)
            continue
        net.zero_grad()
        lasting = [*net.parameters(), *index_tensors(net), *(t for s in trains.state.values() for t in s.values())]
        with Account() as account:
            for tensor in lasting:
                account.count(tensor.untyped_storage())
            step()
        totals.append(account.peak)
    if model == "conv" and layout != "csr":  # torch's convolutions have workspaces, which no operator returns
        assert totals[0] >= totals[1]
    else:
        assert totals[0] == pytest.approx(totals[1], rel=0.05)


def test_dense_by_hand():
    """Weights 160 x 320 + 320 x 320 + 320 x 16 and biases; AdamW keeps two moments, and counts steps of six parameters."""
    step, net, trains = made()
    parameters = 160 * 320 + 320 + 320 * 320 + 320 + 320 * 16 + 16
    for _ in range(2):
        found = step_memory(step, net, trains)
        assert (found.weights, found.gradients, found.indices) == (4 * parameters, 4 * parameters, 0)
        assert found.optimizer_state == 8 * parameters + 6 * 4
    # Saved are x, which is there before, and what the two hidden layers give; relu needs none but its output.
    assert found.activations >= 4 * 48 * (320 + 320 + 16)
    assert found.total >= found.weights + found.optimizer_state + found.gradients


def test_gradients_and_state_are_no_activations():
    """Of one token, the outputs of two layers are small beside a weight's gradient."""
    model = nn.Sequential(nn.Linear(200, 300, bias=False), nn.Linear(300, 5, bias=False))
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.randn(1, 200)
    for _ in range(2):
        found = step_memory(lambda: (model(x).sum().backward(), optimizer.step()), model, optimizer)
        assert 4 * (300 + 5) <= found.activations < 0.1 * found.gradients
        assert found.total == pytest.approx(found.weights + found.gradients + found.optimizer_state, rel=0.01)


def test_sparse_by_hand():
    """CSR of a tenth of 320 x 160: 16-bit columns and rows, 32-bit slots and pointers; the pattern has 32-bit columns."""
    model = nn.Sequential(sx.SparseLinear(160, 320, sparsity=0.9, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(8, 160)
    found = step_memory(lambda: (model(x).sum().backward(), optimizer.step()), model, optimizer)
    nnz, pointers = 5120, 4 * (2 * 321 + 161)
    assert (found.weights, found.gradients, found.optimizer_state) == (4 * nnz,) * 3
    assert found.indices == pointers + nnz * (4 + 2 + 2 + 4)


def test_memory_that_tensors_share_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = step_memory(lambda: (model(torch.ones(2, 4)).sum().backward(), optimizer.step()), model, optimizer)
    assert (found.weights, found.gradients) == (64, 64)
    whole = torch.empty(10, device="meta")
    assert bytes_of([whole[:3], whole[5:], torch.empty(2, dtype=torch.int8, device="meta")]) == 42


def test_what_the_model_had_before_is_no_activation():
    """Gradients from before the step are dropped."""
    step, net, trains = made("linear", None, "sgd")
    one = step_memory(step, net, trains)
    assert step_memory(step, net, trains) == one


def test_what_is_refused():
    step, net, trains = made()
    with pytest.raises(TypeError, match="expected a function that makes one training step, got Tensor"):
        step_memory(torch.zeros(()), net, trains)
    with pytest.raises(ValueError, match="leaves gradients, got none of any parameter; call zero_grad before the step"):
        step_memory(lambda: (step(), trains.zero_grad()), net, trains)
    with pytest.raises(ValueError, match="expected a model with parameters, got a ReLU without any"):
        step_memory(step, nn.ReLU(), trains)


def test_nothing_is_printed(capfd, monkeypatch):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    step_memory(*made())
    assert capfd.readouterr() == ("", "")
    assert "KINETO_LOG_LEVEL" not in os.environ
