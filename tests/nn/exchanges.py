"""Ways to exchange a layer's tensors behind its back, and what is compared afterwards."""

import weakref

import torch
from cases import TOLERANCE
from torch import nn

from sparse_ext import SparseLinear
from sparse_ext.ops import LAYOUTS

CLOSE = TOLERANCE[torch.float32]
WITH_BUFFERS = [name for name, layout in LAYOUTS.items() if layout.pattern.BUFFERS]
LAYERS = {name: {"layout": name} for name in WITH_BUFFERS} | {"2:4 dense weight": {"layout": "2:4", "capacity": 1.0}}
X = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def made(layer):
    return SparseLinear(16, 8, **LAYERS[layer])


def outcome(layer, run=None, x=X):
    """y and all gradients."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = (layer if run is None else run)(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def put(layer, name, tensor):
    """As FSDP1 and accelerate do."""
    setattr(layer, name, nn.Parameter(tensor) if name in layer._parameters else tensor)


def put_inside(layer, name, tensor):
    held = layer._parameters if name in layer._parameters else layer._buffers
    held[name] = nn.Parameter(tensor) if name in layer._parameters else tensor


def swap(layer, name, tensor):
    held = getattr(layer, name)
    if weakref.getweakrefs(held):  # as a program has: PyTorch refuses
        return put(layer, name, tensor)
    return torch.utils.swap_tensors(held, nn.Parameter(tensor) if isinstance(held, nn.Parameter) else tensor)


SEEN = {
    "copy_": lambda layer, name, tensor: getattr(layer, name).detach().copy_(tensor),
    "data =": lambda layer, name, tensor: setattr(getattr(layer, name), "data", tensor),
    "setattr": put,
    "_buffers[]": put_inside,
    "swap_tensors": swap,
    "set_": lambda layer, name, tensor: (
        getattr(layer, name).detach().set_(tensor) if name not in layer._buffers else getattr(layer, name).set_(tensor)
    ),
}
UNSEEN = {
    "data.copy_": lambda layer, name, tensor: getattr(layer, name).data.copy_(tensor),
    "numpy": lambda layer, name, tensor: getattr(layer, name).detach().numpy().__setitem__(..., tensor.numpy()),
}


def give(layer, other, way):
    """Another layer's tensors, each that way."""
    with torch.no_grad():
        for name, tensor in other.state_dict().items():
            way(layer, name, tensor.clone())
