"""What users do around a layer, in any order: it agrees with a mask on a dense weight after every step, or refuses."""

import copy
import io
import pickle

import pytest
import torch
from cases import TOLERANCE
from exchanges import SEEN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS

ROWS, COLS = 6, 8


class MaskedLinear(nn.Module):
    """The reference: a dense weight times a mask, in plain PyTorch."""

    def __init__(self, weight, mask, bias):
        super().__init__()
        self.mask = mask
        self.weight, self.bias = nn.Parameter(weight * mask), nn.Parameter(bias)

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class Pair:
    """A sparse layer, and the reference that it shall agree with."""

    def __init__(self, layout):
        self.layer = SparseLinear(COLS, ROWS, layout=layout)
        self.twin = MaskedLinear(self.layer.dense_weight(), self.layer.mask(), self.layer.bias.detach().clone())

    def take_the_twin_of(self, other):
        """When the layer has taken its tensors."""
        self.twin = copy.deepcopy(other.twin).to(self.layer.weight.dtype)

    def input(self):
        return torch.randn(4, COLS).to(self.layer.weight.dtype)

    def check(self, run=None):
        """The same outputs and gradients; run: other code that computes the layer's product, without gradients."""
        x = self.input()
        close = TOLERANCE[torch.float32]
        with torch.no_grad():
            torch.testing.assert_close((self.layer if run is None else run)(x), self.twin(x), **close)
        if run is not None:
            return
        assert torch.equal(self.layer.mask(), self.twin.mask)
        torch.testing.assert_close(self.layer.dense_weight(), self.twin.weight.detach() * self.twin.mask, **close)
        for one in (self.layer, self.twin):
            one.zero_grad()
            one(x.requires_grad_()).square().sum().backward()
        if self.layer.weight.requires_grad:
            at = self.layer.slots()
            expected = self.twin.weight.grad.view(-1)
            torch.testing.assert_close(self.layer.weight.grad[at >= 0], expected[at[at >= 0]], **close)
        else:
            assert self.layer.weight.grad is None


# ---- what users do ---------------------------------------------------------------------------------------------------------


def load(pair, other):
    pair.layer.load_state_dict(other.layer.state_dict())
    pair.take_the_twin_of(other)


def load_by_assignment(pair, other):
    pair.layer.load_state_dict({name: tensor.clone() for name, tensor in other.layer.state_dict().items()}, assign=True)
    pair.take_the_twin_of(other)


def load_weights_alone(pair, other):
    """Refused where they would be put to other positions than theirs."""
    if pair.layer._names:
        with pytest.raises(RuntimeError, match=r"expected packed values together with their pattern|beside 48 values"):
            pair.layer.load_state_dict(dict(other.layer.named_parameters()), strict=False)


def load_after_a_move_to_meta(pair, other):
    pair.layer.to("meta").to_empty(device="cpu")
    load(pair, other)


def exchanged(way):
    def exchange(pair, other):
        with torch.no_grad():
            for name, tensor in other.layer.state_dict().items():
                SEEN[way](pair.layer, name, tensor.clone())
        pair.take_the_twin_of(other)

    return exchange


def move(pair, _):
    dtype = torch.float64 if pair.layer.weight.dtype == torch.float32 else torch.float32
    pair.layer, pair.twin = pair.layer.to(dtype), pair.twin.to(dtype)


def copied(pair, _):
    first = pair.layer
    pair.layer = copy.deepcopy(pair.layer)
    with torch.no_grad():
        first.weight.zero_()
        for name in first._names:
            first.get_buffer(name).zero_()


def pickled(pair, _):
    pair.layer = pickle.loads(pickle.dumps(pair.layer))


def saved(pair, _):
    file = io.BytesIO()
    torch.save(pair.layer.state_dict(), file)
    pair.layer.reset_parameters()
    file.seek(0)
    pair.layer.load_state_dict(torch.load(file, weights_only=True))


def freeze(pair, _):
    pair.layer.weight.requires_grad_(not pair.layer.weight.requires_grad)


def step(pair, _):
    if pair.layer.weight.requires_grad:
        pair.check()
        for one in (pair.layer, pair.twin):
            torch.optim.SGD(one.parameters(), lr=0.01).step()


def call_functionally(pair, other):
    """With another one's state; afterwards the layer is as it was."""
    state = dict(other.layer.named_parameters()) | dict(other.layer.named_buffers())
    other.check(lambda x: functional_call(pair.layer, state, (x,)))


def export(pair, other):
    """The program takes another one's state, and so does the layer, whose tensors it has."""
    with torch.no_grad():
        program = torch.export.export(pair.layer, (pair.input(),)).module()
    pair.check(program)
    program.load_state_dict(other.layer.state_dict())
    pair.take_the_twin_of(other)
    pair.check(program)


def compiled(pair, other):
    compiled = torch.compile(pair.layer, backend="eager", fullgraph=True)
    pair.check(compiled)
    load(pair, other)
    pair.check(compiled)


def wrap(pair, other):
    """In a module, whose state dict has another prefix."""
    model, given = nn.Sequential(nn.Identity(), pair.layer), nn.Sequential(nn.Identity(), other.layer)
    model.load_state_dict(given.state_dict())
    pair.take_the_twin_of(other)
    pair.check(model)


def average(pair, _):
    """Of weights alone, as AveragedModel does it; the pattern stays."""
    averaged = AveragedModel(pair.layer)
    averaged.update_parameters(pair.layer)
    step(pair, _)
    averaged.update_parameters(pair.layer)
    weight = averaged.module.dense_weight()
    assert torch.equal(averaged.module.mask(), pair.twin.mask)
    reference = Pair.__new__(Pair)
    reference.layer, reference.twin = averaged.module, MaskedLinear(weight, pair.twin.mask, averaged.module.bias.detach())
    reference.check(averaged)


DOES = [
    load, load_by_assignment, load_weights_alone, load_after_a_move_to_meta, move, copied, pickled, saved, freeze, step,
    call_functionally, wrap, average, *map(exchanged, ("copy_", "data =", "setattr", "_buffers[]", "swap_tensors")),
]  # fmt: skip
COMPILES = [export, compiled]


def run(layout, does, seed):
    torch.manual_seed(seed)
    pair = Pair(layout)
    pair.check()
    for do in does:
        do(pair, Pair(layout))
        pair.check()


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20)
@given(st.lists(st.sampled_from(DOES), min_size=2, max_size=6), st.integers(0, 99))
def test_any_sequence(layout, does, seed):
    run(layout, does, seed)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=2)
@given(st.lists(st.sampled_from(DOES), max_size=3), st.sampled_from(COMPILES), st.sampled_from(DOES), st.integers(0, 99))
def test_any_sequence_with_a_program_in_it(layout, before, program, after, seed):
    torch._dynamo.reset()
    run(layout, [*before, program, after], seed)
