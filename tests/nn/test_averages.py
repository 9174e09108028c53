"""Averages of models that take the pattern's integers, too: the average of the weights at the same pattern, or an error."""

import copy

import pytest
import torch
from exchanges import CLOSE, LAYERS, SEEN, WITH_BUFFERS, give
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparse_ext import SparseLinear

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
NAMES_THE_REMEDY = r"EMA.*indices cannot be averaged.*use_buffers=False.*Sparsifier.track"


def made(layer):
    """Large enough that rounding changes several indices, or none."""
    options = {"sparsity": 0.6} if "2:4" not in layer else {}
    return SparseLinear(64, 32, **LAYERS[layer], **(options if layer != "dense" else {}))


def average_entries(copied, model, decay):
    """As timm's ModelEmaV2: every entry of the state dict."""
    with torch.no_grad():
        for mine, its in zip(copied.state_dict().values(), model.state_dict().values(), strict=True):
            mine.copy_(decay * mine + (1 - decay) * its)


@pytest.mark.parametrize("decay", [0.9999, 0.9996, 0.999, 0.99, 0.95, 0.9, 0.7])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_average_of_every_entry(layer, decay):
    """Of the same pattern. Rounding may have made another one of it, which may be valid, above all in a small layer."""
    model = made(layer)
    copied, weight = copy.deepcopy(model), model.weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            model.weight += 0.1 * (model.slots() >= 0)
        weight = decay * weight + (1 - decay) * model.weight.detach()
        average_entries(copied, model, decay)
    if any(not torch.equal(tensor, model.get_buffer(name)) for name, tensor in copied._stored().items()):
        with pytest.raises(ValueError, match=NAMES_THE_REMEDY):
            copied(X)
        return
    y = copied(X)
    assert torch.equal(copied.mask(), model.mask())
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.copy_(copied.bias)
    torch.testing.assert_close(y, model(X), **CLOSE)


@pytest.mark.parametrize("layer", WITH_BUFFERS)
def test_it_is_refused_wherever_it_is_used_and_recovers(layer):
    model = made(layer)
    copied = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9999), use_buffers=True)
    for _ in range(2):
        copied.update_parameters(model)
    layer = copied.module
    uses = (layer, lambda _: layer.mask(), lambda _: layer.dense_weight(), lambda _: layer.double(), lambda _: copy.copy(layer))
    for use in (*uses, lambda _: copy.deepcopy(layer)):
        with pytest.raises(ValueError, match=NAMES_THE_REMEDY):
            use(X)
    layer.load_state_dict(model.state_dict())
    assert torch.equal(layer(X), model(X))


def test_of_weights_alone_it_works():
    model = SparseLinear(64, 8)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    assert torch.equal(averaged(X), model(X))


def test_valid_indices_that_rounding_left_are_refused():
    """One column less in each of two rows, wherever a column 5 was: nothing else tells that from another pattern."""
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[0, 5] = mask[1, 2] = mask[2, 5] = mask[3, 7] = True
    layer = SparseLinear.from_dense(torch.nn.Linear(8, 4), mask=mask)
    with torch.no_grad():
        layer.col_idx[layer.col_idx == 5] = 4
    with pytest.raises(ValueError, match=r"less by 1, .*" + NAMES_THE_REMEDY + r".*call sync\(\)"):
        layer(X[:, :8])
    layer.sync()
    assert layer.mask()[:, 4].tolist() == [True, False, True, False]
    layer(X[:, :8])


@pytest.mark.parametrize("layer", WITH_BUFFERS)
def test_few_positions_that_move_are_followed(layer):
    """As an update late in training moves them, and a copy of the buffers takes them over."""
    model = made(layer)
    copied = copy.deepcopy(model)
    if not type(model.pattern).REGROWS:
        return
    for seed in range(30):
        pattern, _ = model.pattern.regrown(model.weight.detach(), seed, 1, 1)
        model.write_pattern_(pattern)
        give(copied, model, SEEN["copy_"])
        assert torch.equal(copied.mask(), model.mask())
