"""Checkpoints with a part of a layer's entries: packed values and their pattern are loaded together, or refused."""

import itertools

import pytest
import torch
from torch import nn

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS

WITH_BUFFERS = [name for name, layout in LAYOUTS.items() if layout.pattern.BUFFERS]
TOGETHER = r"expected (packed values together with their pattern|\w+ beside 128 values)"


def parts(names):
    """Every choice of some of them."""
    return [chosen for count in range(1, len(names)) for chosen in itertools.combinations(names, count)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("layout", WITH_BUFFERS)
def test_a_part_is_refused_and_changes_nothing(layout, strict):
    layer, other = SparseLinear(16, 8, layout=layout), SparseLinear(16, 8, layout=layout)
    model, before = nn.Sequential(layer), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for chosen in parts(["weight", *layer._names]):
        entries = {f"0.{name}": other.state_dict()[name] for name in chosen}
        with pytest.raises(RuntimeError, match=r"0\.(weight: " + TOGETHER + "|pattern: expected)"):
            model.load_state_dict(entries, strict=strict)
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("layout", WITH_BUFFERS)
def test_what_does_not_change_the_pattern_is_loaded(layout):
    """The bias alone, the layer's own pattern alone, and values of its own pattern together with that."""
    layer, other = SparseLinear(16, 8, layout=layout), SparseLinear(16, 8, layout=layout)
    layer.load_state_dict({"bias": other.bias}, strict=False)
    layer.load_state_dict(dict(layer.named_buffers()), strict=False)
    new = {"weight": layer.weight.detach() * 2, "bias": other.bias}
    layer.load_state_dict({**layer.state_dict(), **new})
    assert torch.equal(layer.weight, new["weight"])
    assert torch.equal(layer.bias, other.bias)
