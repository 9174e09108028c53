"""Inference mode: layers are built, converted, copied, moved and loaded in it, and what `nn.Linear` can do afterwards they can.

Tensors made in inference mode have no version counter. A weight copied or assigned there cannot be trained, as `nn.Linear`'s;
the pattern is still followed, whatever writes it.
"""

import copy

import pytest
import torch
from torch import nn

from sparse_ext import SparseLinear, densify_, sparsify_
from sparse_ext import functional as SF
from sparse_ext.ops import LAYOUTS, OPS, CsrPattern
from sparse_ext.ops.boundary import launch

MODES = {"inference": torch.inference_mode, "no_grad": torch.no_grad, "grad": torch.enable_grad}
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def fresh(module):
    """Another one of its kind."""
    return nn.Linear(8, 6) if isinstance(module, nn.Linear) else SparseLinear(8, 6, layout=module.layout)


def loaded(module, state, **options):
    module.load_state_dict(state, **options)
    return module


def from_meta(module):
    with torch.device("meta"):
        module = fresh(module)
    module.to_empty(device="cpu").reset_parameters()
    return module


# What gives a layer like this one; `nn.Linear` has all of these, too.
WAYS = {
    "built": fresh,
    "deepcopy": copy.deepcopy,
    "load": lambda module: loaded(module, fresh(module).state_dict()),
    "load dense": lambda module: loaded(module, nn.Linear(8, 6).state_dict()),
    "assign": lambda module: loaded(module, fresh(module).state_dict(), assign=True),
    "moved": lambda module: module.double().float(),
    "from meta": from_meta,
    "used": lambda module: module(X) is not None and module,
}
CONVERSIONS = {
    "from_dense": lambda layout: SparseLinear.from_dense(nn.Linear(8, 6), layout=layout),
    "sparsify_": lambda layout: sparsify_(nn.Sequential(nn.Linear(8, 6)), layout=layout)[0],
    "mask": lambda layout: SparseLinear.from_dense(
        nn.Linear(8, 6), mask=SparseLinear(8, 6, layout=layout).mask(), layout=layout
    ),
}


def twin(layer):
    """nn.Linear of the same function."""
    dense = nn.Linear(8, 6)
    dense.load_state_dict({"weight": layer.dense_weight(), "bias": layer.bias.detach().clone()})
    return dense


def assert_follows(layer):
    """Another pattern, written in place, is multiplied."""
    other = fresh(layer)
    for name, tensor in other.pattern.buffers.items():
        layer.get_buffer(name).copy_(tensor)
    torch.testing.assert_close(layer(X), twin(layer)(X))
    assert torch.equal(layer.mask(), other.mask())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", [*WAYS, *CONVERSIONS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_from_inference_mode_infers(layout, way, mode):
    layer = SparseLinear(8, 6, layout=layout)
    with MODES[mode]():
        layer = WAYS[way](layer) if way in WAYS else CONVERSIONS[way](layout)
        torch.testing.assert_close(layer(X), twin(layer)(X))
    with torch.no_grad():
        torch.testing.assert_close(layer(X), twin(layer)(X))
        assert_follows(layer)
    with MODES[mode](), torch.no_grad():
        assert_follows(layer)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_trains_afterwards_or_refuses_as_nn_linear_does(layout, way):
    layer, dense = SparseLinear(8, 6, layout=layout), nn.Linear(8, 6)
    with torch.inference_mode():
        layer, dense = WAYS[way](layer), WAYS[way](dense)
    assert layer.weight.is_inference() == dense.weight.is_inference()
    if dense.weight.is_inference():
        for one in (layer, dense):
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
                one(X.clone().requires_grad_())
        return
    dense = twin(layer)
    for one in (layer, dense):
        one(X).square().sum().backward()
    at = layer.slots()
    torch.testing.assert_close(layer.weight.grad[at >= 0], dense.weight.grad.flatten()[at[at >= 0]])


def test_what_is_kept_between_calls_serves_training():
    """The operands of a pattern, and a thread's workspace."""
    x, mask = torch.randn(4, 600, requires_grad=True), torch.rand(600, 600) < 0.5
    with torch.inference_mode():
        pattern = CsrPattern.from_mask(mask)
        weight = torch.randn(pattern.capacity)
        launch._kept.__dict__.clear()
        SF.csr_linear(x, weight, None, pattern)
        OPS["densified_matmul"](weight, pattern.row_ptr, pattern.col_idx, 600, x, None)
    SF.csr_linear(x, torch.ones(pattern.capacity), None, pattern).sum().backward()
    with torch.no_grad():
        OPS["densified_grad_weight"](pattern.row_ptr, pattern.col_idx, 600, x[:, :600], x)


def test_densify_too():
    with torch.inference_mode():
        model = densify_(nn.Sequential(SparseLinear(8, 6)))
    assert model[0](X).shape == (5, 6)
