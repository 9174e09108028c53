"""The rest of a training system: EMA and deep copies, transformers, tied weights, growing room."""

import copy
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training import (
    KINDS,
    OPTIMIZERS,
    REGROWING,
    active,
    assert_same,
    batch,
    everything,
    masks,
    method_named,
    mlp,
    run,
    spread,
    train,
)

import sparse_ext as sx
from sparse_ext.methods import Method, Regrow
from sparse_ext.nn import sparse_layers


def trainer(model, method="rigl", optimizer="adamw", total_steps=100):
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    method = method_named(method, update_interval=3, drop_fraction=0.4, t_end=1.0)
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=total_steps)


# ---- copies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average_first", [True, False])
@pytest.mark.parametrize(("method", "layout"), REGROWING)
@pytest.mark.parametrize("kind", KINDS)
def test_an_ema_copy_moves_along(kind, method, layout, average_first):
    model, optimizer, sparsifier = trainer(mlp(layout=layout, kind=kind, method=method), method)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    sparsifier.track(ema)
    own, copies = sparse_layers(model), sparse_layers(ema)
    moved = 0
    for step, _ in train(model, optimizer, None, range(1, 22)):
        if average_first:
            ema.update_parameters(model)
        before = {name: spread(layer, layer.weight.detach()) for name, layer in copies.items()}
        was = {name: active(layer) for name, layer in own.items()}
        assert sparsifier.step() == (step % 3 == 0) or sparsifier.method.changes_density
        for name, layer in own.items():
            twin = copies["module." + name]
            assert torch.equal(twin.mask(), layer.mask())
            now, stays = active(layer), active(layer) & was[name]
            values = spread(twin, twin.weight.detach())
            assert torch.equal(values[stays], before["module." + name][stays])
            assert not values[now & ~was[name]].any()
            moved += int((now & ~was[name]).sum())
        if not average_first:
            ema.update_parameters(model)
        x, _ = batch(step)
        twin = sx.densify_(copy.deepcopy(ema.module))
        torch.testing.assert_close(ema(x), twin(x))
    assert moved > 100 or sparsifier.method.changes_density


def test_two_copies_are_tracked():
    model, optimizer, sparsifier = trainer(mlp())
    copies = [copy.deepcopy(model), AveragedModel(model)]
    for other in copies:
        sparsifier.track(other)
    assert run(model, optimizer, sparsifier, range(1, 10)) == 3
    expected = list(masks(model).values())
    for other in copies:
        assert all(torch.equal(a, b) for a, b in zip(masks(other).values(), expected, strict=True))


def test_a_deep_copy_trains_on_as_the_original_does_and_alone():
    model, optimizer, sparsifier = trainer(mlp())
    run(model, optimizer, sparsifier, range(1, 9))  # step 9 is armed
    twin, own, other = trainer(copy.deepcopy(model))
    own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(sparsifier.state_dict())
    before = everything(twin, own)
    assert run(model, optimizer, sparsifier, range(9, 22)) == 5
    assert_same(everything(twin, own), before)
    assert run(twin, own, other, range(9, 22)) == 5
    assert_same(everything(twin, own), everything(model, optimizer))


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_of_everything_at_once_trains_on(kind):
    """Model, optimizer and Sparsifier copied together, between steps of which the next is armed."""
    trio = trainer(mlp(kind=kind))
    run(*trio, range(1, 9))
    twins = copy.deepcopy(trio)
    assert run(*trio, range(9, 22)) == run(*twins, range(9, 22)) == 5
    assert_same(everything(*twins[:2]), everything(*trio[:2]))


# ---- transformers and tied weights ---------------------------------------------------------------------------------


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, dropout=0.0, batch_first=True)


def train_on_noise(model, steps=9):
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    method = sx.RigL(update_interval=3, drop_fraction=0.4, t_end=1.0)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x, y = torch.randn(2, 4, 5, 16, generator=generator)
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    return sparsifier


def converted(model, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # out_proj of the attention stays dense, with a warning: below
        return sx.sparsify_(model, 0.8, distribution="uniform", **kwargs)


def test_a_transformer_encoder_layer_trains_and_evaluates():
    with pytest.warns(UserWarning, match=r"'self_attn.out_proj' stays dense: nn.MultiheadAttention"):
        layer = sx.sparsify_(encoder_layer(), 0.8, distribution="uniform")
    assert list(sparse_layers(layer)) == ["linear1", "linear2"]
    assert train_on_noise(layer).report().updates == 3
    x = torch.randn(3, 5, 16)
    twin = sx.densify_(copy.deepcopy(layer)).eval()
    expected = layer.train()(x).detach()
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x), twin(x))
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("exclude", [(), "layers.0.*", "layers.1.*"], ids=["all", "first dense", "last dense"])
def test_a_stack_with_a_padding_mask_evaluates(exclude):
    """nn.TransformerEncoder has a fast path of its own (nested tensors), decided by its first layer."""
    torch.manual_seed(0)
    model = converted(nn.TransformerEncoder(encoder_layer(), 2), exclude=exclude)
    train_on_noise(model, steps=4)
    model.eval()
    x = torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    twin = sx.densify_(copy.deepcopy(model))
    expected = twin(x, src_key_padding_mask=padding)[~padding]  # with grad: the ordinary path
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected)


class Tied(nn.Module):
    """A language model's embedding and head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.hidden(self.embed(x)).relu())


def test_tied_weights_stay_dense_and_tied():
    torch.manual_seed(0)
    model = Tied()
    with pytest.warns(UserWarning, match="'head' stays dense: its weight is tied"):
        sx.sparsify_(model, 0.5)
    assert list(sparse_layers(model)) == ["hidden"]
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=2, t_end=1.0), total_steps=100)
    for _ in range(6):
        x = torch.randint(16, (20,))
        nn.functional.cross_entropy(model(x), x).backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert sparsifier.report().updates == 3
    assert model.head.weight is model.embed.weight


def test_two_sparse_layers_cannot_share_one_weight():
    """Each would regrow it by its own pattern; the same module in two places is fine (test_surgery)."""
    model = nn.Sequential(sx.SparseLinear(8, 8), sx.SparseLinear(8, 8))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'0'.*'1'"):
        sx.Sparsifier(model, optimizer, sx.RigL(), total_steps=100)


# ---- methods whose density varies ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grower(Method):
    """Adds 8 random connections at every second step, up to half of all."""

    def is_update(self, time):
        return time.step > 0 and time.step % 2 == 0

    def plan(self, layers, time):
        return dict.fromkeys(layers, Regrow(0, 8))

    def max_density(self, density):
        return 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_layer_that_is_too_small_is_enlarged_with_its_state(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.8), nn.Tanh(), nn.Linear(20, 6))
    layer = model[0]
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    run(model, optimizer, None, range(1, 4))
    before = everything(model, optimizer)
    weight, y = layer.weight, model(batch(1)[0]).detach()
    sparsifier = sx.Sparsifier(model, optimizer, Grower(), total_steps=100)
    assert layer.weight is weight
    assert layer.capacity == weight.numel() == layer.col_idx.numel() == 120
    assert layer.nnz == 48
    for key, value in everything(model, optimizer).items():
        old = before[key]
        if torch.is_tensor(old) and old.shape == (48,):
            assert torch.equal(value[:48], old)
            assert not value[48:].any()
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(old))
    assert torch.equal(model(batch(1)[0]), y)

    counts = [layer.nnz for _ in train(model, optimizer, sparsifier, range(4, 12))]
    assert counts == [48, 56, 56, 64, 64, 72, 72, 80]
    assert math.isclose(sparsifier.report().layers[0].density, 80 / 240)


def test_enlarging_survives_a_graph_that_is_still_alive():
    """Such as the last loss: autograd remembers a parameter's shape for as long as a graph refers to it."""
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.8), nn.Tanh(), nn.Linear(20, 6))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    loss = model(batch(1)[0]).square().mean()
    loss.backward()
    sparsifier = sx.Sparsifier(model, optimizer, Grower(), total_steps=100)
    assert model[0].weight.grad.shape == (120,)
    assert run(model, optimizer, sparsifier, range(1, 5)) == 2
    assert model[0].nnz == 64
    assert loss.isfinite()
