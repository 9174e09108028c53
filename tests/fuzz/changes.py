"""What may be wrong with data from outside: a number, a length, a dtype, a shape; or it is no tensor at all."""

from __future__ import annotations

import copy
from typing import Any

import torch
from choices import Choices

NUMBERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 64, 0x44, 255, 256, 65535, 65536, 65537, -128, 2**31 - 1, -(2**31), 2**63 - 1)
FLOATS = (0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e30)
DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.int16, torch.uint16,
    torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip
OTHERS = (
    None,
    0,
    -1,
    1,
    2**70,
    True,
    0.5,
    float("nan"),
    "",
    "weight",
    b"\0",
    [],
    [0],
    {},
    {"0": 1},
    torch.zeros(1),
    torch.ones(()),
)


# ---- a tensor ----------------------------------------------------------------------------------------------------------


def changed_tensor(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor in its place."""
    return choices.of((element, element, swapped, longer, shorter, moved, of_dtype, reshaped))(choices, tensor)


def element(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    """One element is another number."""
    if not tensor.numel():
        return tensor
    tensor, at = tensor.clone(memory_format=torch.contiguous_format), choices.below(tensor.numel())
    number = torch.tensor([choices.of(FLOATS if tensor.is_floating_point() else NUMBERS)])
    tensor.view(-1)[at : at + 1] = number.to(tensor.dtype)
    return tensor


def swapped(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    """Two elements change places; or one takes the other's value."""
    if not tensor.numel():
        return tensor
    flat = tensor.contiguous().view(-1)
    one, other = choices.below(flat.numel()), choices.below(flat.numel())
    order = torch.arange(flat.numel())
    order[one] = other
    if choices.chance(50):
        order[other] = one
    return flat[order].view(tensor.shape)


def longer(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor[-1:]]) if tensor.dim() else tensor


def shorter(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    """Without what is last, or empty."""
    return tensor[: choices.of((-1, 0))] if tensor.dim() else tensor


def moved(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    """The same values, not contiguous or not aligned."""
    if choices.chance(50):
        return torch.stack([tensor, tensor], -1)[..., 0]
    return torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(tensor.shape)


def of_dtype(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(choices.of(DTYPES))


def reshaped(choices: Choices, tensor: torch.Tensor) -> torch.Tensor:
    if choices.chance(50) and tensor.dim() == 2:
        return tensor.t()
    return choices.of((tensor[None], tensor.flatten(), tensor[..., :0] if tensor.dim() else tensor))


# ---- a tree of dicts, lists and tensors --------------------------------------------------------------------------------


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree, in order."""
    found: list[tuple[Any, Any]] = []
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], dict | list):
            found += nodes(tree[key])
    return found


def corrupt_(choices: Choices, tree: Any) -> None:
    """One thing in a tree is another, is missing, or has another name. Tensors are replaced, never written."""
    found = nodes(tree)
    if not found:
        return
    (container, key), (other_container, other_key) = choices.of(found), choices.of(found)
    kind = choices.of(("change", "change", "replace", "delete", "copy", "rename"))
    value = container[key]
    if kind == "change" and isinstance(value, torch.Tensor):
        container[key] = changed_tensor(choices, value)
    elif kind == "change" and type(value) is int:
        container[key] = choices.of((value + 1, value - 1, -value, choices.of(NUMBERS)))
    elif kind == "copy":
        container[key] = copy.deepcopy(other_container[other_key])
    elif kind == "rename" and isinstance(container, dict):
        container[choices.of(("weight", "bias", "rule", "2", "gradient", f"{key}.x"))] = container.pop(key)
    elif kind == "delete":
        del container[key]
    else:
        container[key] = copy.deepcopy(choices.of(OTHERS))
