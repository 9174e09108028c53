"""Corrupt checkpoints: a sentence that names what was found and what was expected, and a layer that is as it was."""

import copy
import re

import pytest
import torch
from torch import nn

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS, operands_of


def edited(name, place, value):
    def edit(state):
        state[name] = state[name].clone()
        state[name][place] = value

    return edit


def replaced(name, make):
    def edit(state):
        state[name] = make(state[name])

    return edit


def without(name, edit):
    def both(state):
        edit(state)
        del state[name]

    return both


def without_weight(edit):
    return without("weight", edit)


# A layer 4 -> 3 with entries (0, 1) (0, 3) (1, 0) (2, 2) and one spare: row_ptr 0 2 3 4, col_idx 1 3 0 2 0.
CORRUPT = {
    "unsorted": (edited("col_idx", slice(0, 2), torch.tensor([3, 1])), ("ascending", "got 3 then 1", "row 0")),
    "twice": (edited("col_idx", 1, 1), ("ascending", "got 1 then 1", "row 0")),
    "too large": (edited("col_idx", 3, 4), ("between 0 and 3", "got 4")),
    "negative": (edited("col_idx", 0, -1), ("between 0 and 3", "got -1")),
    "not monotone": (edited("row_ptr", 1, 4), ("monotone", "got 4 then 3", "row 1")),
    "not from zero": (edited("row_ptr", 0, 1), ("begin with 0", "got 1")),
    "beyond col_idx": (edited("row_ptr", 3, 9), ("5", "got 9")),
    "row_ptr too short": (replaced("row_ptr", lambda t: t[:-1]), (r"\(4,\)", r"got \(3,\)")),
    "row_ptr too long": (replaced("row_ptr", lambda t: torch.cat([t, t[-1:]])), (r"\(4,\)", r"got \(5,\)")),
    "col_idx as a matrix": (replaced("col_idx", lambda t: t[None]), ("1 dimension", r"got shape \(1, 5\)")),
    "weight of another length": (replaced("weight", lambda t: t[:-1]), ("5", r"got \(4,\)")),
    "dense of another shape": (replaced("weight", lambda t: torch.ones(4, 3)), (r"\(3, 4\)", r"got \(4, 3\)")),
    "more than the capacity": (
        lambda s: s.update(SparseLinear(4, 3, sparsity=0.5).state_dict()), ("at most 5", "got 6")),
    "float row_ptr": (replaced("row_ptr", lambda t: t + 0.5), ("int32", "got .*float")),
    "unsorted, no weight": (without_weight(edited("col_idx", slice(0, 2), torch.tensor([3, 1]))),
                            ("ascending", "got 3 then 1")),
    "half a pattern": (without("col_idx", edited("row_ptr", 1, 4)), ("monotone", "got 4 then 3")),
    "half a pattern, too long": (without_weight(without("row_ptr", replaced("col_idx", lambda t: torch.cat([t, t[-1:]])))),
                                 ("6 values", r"got \(5,\)")),
    "64 bits that would wrap": (replaced("col_idx", lambda t: t.long() + 2**32), (r"below 2\^31", "got 4294967297")),
    "16-bit row_ptr": (replaced("row_ptr", lambda t: t.short()), ("int32", "got torch.int16")),
    "complex weight": (replaced("weight", lambda t: t.cfloat()), ("floating-point", "got torch.complex64")),
    "bias of another length": (replaced("bias", lambda t: t[:-1]), ("bias", r"\(3,\)", r"got \(2,\)")),
    "bias without values": (replaced("bias", lambda t: t.to("meta")), ("bias", "values of its own", "on meta")),
    "bias that is a list": (replaced("bias", lambda t: t.tolist()), ("bias", "expected a tensor", "got list")),
    "too large, no weight": (without_weight(edited("col_idx", 3, 4)), ("between 0 and 3", "got 4")),
}  # fmt: skip


def tensors(layer):
    """Everything that a layer holds."""
    return [*layer.state_dict().values(), *operands_of(LAYOUTS["csr"], layer.pattern)]


def by_hand():
    mask = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    return SparseLinear.from_dense(nn.Linear(4, 3), mask=mask, capacity=5 / 12)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("options", [{}, {"assign": True}], ids=["copy", "assign"])
@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_checkpoint_changes_nothing(name, options, strict):
    edit, parts = CORRUPT[name]
    layer, state = by_hand(), by_hand().state_dict()
    edit(state)
    before = [tensor.clone() for tensor in tensors(layer)]
    with pytest.raises(RuntimeError, match="(?s)" + ".*".join(f"(?:{part})" for part in parts)):
        layer.load_state_dict(state, strict=strict, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(layer), strict=True))


def test_a_corrupt_checkpoint_names_the_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"sparse": by_hand()}))
    state = copy.deepcopy(model.state_dict())
    state["1.sparse.col_idx"][3] = 4
    with pytest.raises(RuntimeError, match=re.escape("1.sparse.")):
        model.load_state_dict(state)


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_with_64_bit_indices_loads(assign):
    layer, state = by_hand(), by_hand().state_dict()
    state.update({name: state[name].long() for name in ("row_ptr", "col_idx")})
    layer.load_state_dict(state, assign=assign)
    assert (layer.row_ptr.dtype, layer.col_idx.dtype) == (torch.int32, torch.int32)
    assert torch.equal(layer(torch.eye(4)).t() - layer.bias[:, None], layer.dense_weight())


def test_buffers_written_in_place_are_followed_or_refused():
    """DDP broadcasts buffers into place; a pattern that arrives there is checked before a kernel reads it."""
    layer, other, x = SparseLinear(4, 3, sparsity=0.5), SparseLinear(4, 3, sparsity=0.5), torch.randn(5, 4)
    with torch.no_grad():
        for mine, its in zip((*layer.parameters(), *layer.buffers()), (*other.parameters(), *other.buffers()), strict=True):
            mine.copy_(its)
    assert torch.equal(layer(x), other(x))
    layer.row_ptr.copy_(torch.tensor([0, 6, 6, 6]))
    layer.col_idx.copy_(torch.tensor([0, 1, 3, 2, 1, 0]))
    with pytest.raises(ValueError, match=r"ascending .*got 3 then 2"):
        layer(x)
