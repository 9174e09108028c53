"""A ResNet from conversion to densification: ERK as in the RigL paper, training, resume, compiled code."""

import io

import pytest
import torch
from cases import TOLERANCE
from torch import nn

import sparse_ext as sx
from examples.resnet import resnet18, resnet50
from sparse_ext.nn import sparse_layers

METHOD = sx.RigL(update_interval=2, drop_fraction=0.4, t_end=1.0)
MAKES = {"resnet18": resnet18, "resnet50": resnet50}


def build(make, seed=0):
    torch.manual_seed(seed)
    model = sx.sparsify_(make(width=8, classes=6), 0.8, method=METHOD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    return model, optimizer, sx.Sparsifier(model, optimizer, METHOD, total_steps=20)


def train(model, optimizer, sparsifier, steps):
    """How many steps changed the pattern."""
    changes = 0
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(4, 3, 33, 33, generator=generator), torch.randint(6, (4,), generator=generator)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        changes += sparsifier.step()
        optimizer.zero_grad()
    return changes


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("name", MAKES)
def test_from_conversion_to_densification(name):
    things = build(MAKES[name])
    model = things[0]
    assert len(sparse_layers(model)) > 12
    assert train(*things, range(1, 5)) == 2
    saved = through_a_file([thing.state_dict() for thing in things])
    resumed = build(MAKES[name], seed=1)
    for thing, state in zip(resumed, saved, strict=True):
        thing.load_state_dict(state)
    for each in (things, resumed):
        assert train(*each, range(5, 9)) == 2
    for key, value in model.state_dict().items():
        assert torch.equal(resumed[0].state_dict()[key], value), key
    x, y = torch.randn(2, 3, 33, 33), None
    with torch.no_grad():
        y = model.eval()(x)
        dense = sx.densify_(model)(x)
    torch.testing.assert_close(dense, y, **TOLERANCE[torch.float32])
    assert not sparse_layers(model)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in MAKES[name](width=8, classes=6).state_dict().items()
    }
    resumed[0].load_state_dict(model.state_dict())  # strict; nothing is pruned, as there are enough zeros
    with torch.no_grad():
        torch.testing.assert_close(resumed[0].eval()(x), y, **TOLERANCE[torch.float32])


@pytest.mark.slow
def test_compiled_training_is_eager_training():
    torch._dynamo.reset()
    eager, compiled = build(resnet18), build(resnet18)
    train(*eager, range(1, 4))
    train(torch.compile(compiled[0], backend="aot_eager", fullgraph=True), *compiled[1:], range(1, 4))
    for key, value in eager[0].state_dict().items():
        torch.testing.assert_close(compiled[0].state_dict()[key], value, **TOLERANCE[torch.float32])


def test_flops_of_erk_are_those_of_the_paper():
    """Evci et al. 2020, table 1: inference FLOPs of ResNet-50 with ERK, as a share of the dense ones."""
    model, flops = resnet50(), {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda layer, _, y, name=name: flops.__setitem__(name, layer.weight.numel() * y[0, 0].numel())
            )
    model.to("meta")(torch.zeros(1, 3, 224, 224, device="meta"))
    for layer in model.modules():
        layer._forward_hooks.clear()
    for sparsity, share in ((0.8, 0.42), (0.9, 0.24), (0.95, 0.12)):
        shares = sx.layer_densities(model, sparsity)
        assert shares.keys() == flops.keys()
        total = sum(shares[name] * count for name, count in flops.items())
        assert total / sum(flops.values()) == pytest.approx(share, abs=0.007)
