"""Any checkpoint: it is refused in a sentence and changes nothing, or it loads, and what it made computes as its buffers say.

Most inputs are state dicts of a layer, from any layout to any other, from a dense layer, or of version 1; the others are
states of a Sparsifier (states.py). Up to three things in one are changed.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import states
import torch
from cases import TOLERANCE
from changes import corrupt_
from choices import Choices
from refused import refused
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS, Layout, prepared, reference

SHAPES = ((4, 3), (8, 5), (5, 6), (12, 4))
OLD = Path(__file__).parent.parent / "fixtures" / "v1"
OLD_SHAPE = (12, 20)


def check(choices: Choices) -> str:
    """What became of a checkpoint; AssertionError if it is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, such as on a complex weight that becomes a real one
        return states.check(choices) if choices.chance(30) else check_layer(choices)


def check_layer(choices: Choices, layout: str | None = None) -> str:
    """A state dict for a layer, of this layout or of any."""
    torch.manual_seed(choices.below(256))
    old = choices.of([None, None, *old_checkpoints()])
    shape = OLD_SHAPE if old else choices.of(SHAPES)
    layer = made(choices, shape, layout)
    state = dict(copy.deepcopy(old_entries(old) if old else donor(choices, shape).state_dict()))
    for _ in range(choices.below(4)):
        corrupt_(choices, state)
    strict, assign = not choices.chance(50), choices.chance(50)
    before = snapshot(layer)
    if text := refused(lambda: layer.load_state_dict(state, strict=strict, assign=assign)):
        assert_refused_whole(layer, text, before)
        return "refused"
    assert_valid(layer)
    return "loaded"


# ---- layers and their state dicts --------------------------------------------------------------------------------------


def made(choices: Choices, shape: tuple[int, int], layout: str | None = None) -> sx.SparseLinear:
    """A layer of this layout or of any, packed or with a dense weight, perhaps with unused slots."""
    name = choices.of(list(LAYOUTS)) if layout is None else layout
    kind, bias = LAYOUTS[name].pattern, choices.chance(50)
    sparsity = choices.of((0.5, 0.9, 0.0)) if kind.VARIABLE else kind.SPARSITY
    layer = sx.SparseLinear(*shape, bias=bias, layout=name, sparsity=sparsity)
    if kind.RULES and choices.chance(40):
        layer.store_dense_()
        layer.choose_(choices.of(kind.RULES))
    elif kind.VARIABLE and choices.chance(40):
        layer.enlarge_(min(layer.capacity + 1 + choices.below(5), shape[0] * shape[1]))
    return layer


def donor(choices: Choices, shape: tuple[int, int]) -> nn.Module:
    """Whose state dict it is."""
    return made(choices, shape) if choices.chance(90) else nn.Linear(*shape)


@cache
def old_checkpoints() -> list[str]:
    return sorted(path.name for path in OLD.glob("model-*.pt"))


@cache
def old_entries(name: str) -> dict[str, torch.Tensor]:
    """The first layer's in a checkpoint of version 1."""
    state = torch.load(OLD / name, weights_only=True)
    return {key[2:]: value for key, value in state.items() if key.startswith("0.")}


# ---- what must hold ----------------------------------------------------------------------------------------------------


def snapshot(layer: sx.SparseLinear) -> dict[str, Any]:
    """Copies of all that a layer holds, and which objects its tensors are."""
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers()), **layer._operands._asdict()}
    held = {"layout": layer.layout, "rule": layer.chosen_by, **{f"{name} is": id(tensor) for name, tensor in tensors.items()}}
    return {**held, **{name: tensor.detach().clone() for name, tensor in tensors.items()}}


def assert_refused_whole(layer: sx.SparseLinear, text: str, before: dict[str, Any]) -> None:
    """Nothing has changed. But PyTorch refuses missing and unexpected keys when it has loaded the others: then it is valid."""
    if "Missing key" in text or "Unexpected key" in text:
        assert_valid(layer)
    else:
        assert_same(snapshot(layer), before)


def assert_same(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Bit for bit."""
    assert now.keys() == before.keys(), f"other tensors than before: {now.keys() ^ before.keys()}"
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            same = value.dtype == now[name].dtype and value.shape == now[name].shape and bytes_of(value) == bytes_of(now[name])
        else:
            same = value == now[name]
        assert same, f"{name} has changed: {value} is now {now[name]}"


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def assert_valid(layer: sx.SparseLinear) -> None:
    """Buffers, operands and products agree."""
    kind, pattern, rule = LAYOUTS[layer.layout], layer.pattern, layer.chosen_by
    pattern.check("", rule)
    positions = pattern.rows * pattern.cols
    assert layer.weight.shape == (pattern.capacity if rule is None else positions,)
    for name, tensor in prepared(kind, pattern)._asdict().items():
        assert torch.equal(getattr(layer._operands, name), tensor), f"stale operand {name}"
    x = torch.randn(3, pattern.cols).to(layer.weight.dtype)
    results: list[torch.Tensor] = []
    if refused(lambda: results.append(layer(x))):  # assigned: a dtype that has no kernels, or two dtypes
        return
    (y,) = results
    weight, bias = matrix(kind, layer).double(), torch.zeros(()) if layer.bias is None else layer.bias.double()
    want = (x.double() @ weight.t() + bias).to(y.dtype)
    # Of two huge numbers that cancel each other, what is left is rounded as they are.
    unit = (x.double().abs() @ weight.abs().t() + bias.abs()).nan_to_num(1, 1)
    unit = unit.where(unit > 1e20, torch.ones(())).to(y.dtype)
    torch.testing.assert_close(y / unit, want / unit, equal_nan=True, **TOLERANCE[y.dtype])


def matrix(kind: type[Layout], layer: sx.SparseLinear) -> torch.Tensor:
    """What products multiply by, in plain PyTorch."""
    weight, pattern, rule = layer.weight.detach(), layer.pattern, layer.chosen_by
    if rule is None:
        return Layout.unpack.__func__(kind, weight, pattern)
    dense = weight.view(pattern.rows, pattern.cols)
    if rule.name == "soft":
        return reference.nm24_unpack(*reference.nm24_prune(dense, "soft", None, rule.scale), pattern.cols)
    at = pattern.positions()
    mask = torch.zeros(dense.numel(), dtype=torch.bool)
    mask[at[at >= 0]] = True
    return dense.masked_fill(~mask.view_as(dense), 0)
