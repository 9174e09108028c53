"""Bad input to the Sparsifier: a sentence with the value found and the value expected, and nothing has changed."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from training import OPTIMIZERS, Lion, assert_same, everything, mlp, run

import sparse_ext as sx


def build(model=None, method=None, total_steps=100, optimizer=None, **kwargs):
    model = mlp() if model is None else model
    optimizer = OPTIMIZERS["adamw"](model.parameters()) if optimizer is None else optimizer
    method = sx.RigL(update_interval=3, t_end=1.0) if method is None else method
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=total_steps, **kwargs)


class Factored(Lion):
    """Keeps row statistics besides: what Adafactor does, under another name."""

    def step(self):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row_mean"] = torch.zeros(3)


def test_an_optimizer_without_a_layers_weight_is_refused():
    model = mlp()
    optimizer = torch.optim.SGD([*model[0].parameters(), model[2].bias, *model[4].parameters()], lr=0.1)
    with pytest.raises(ValueError, match=r"holds the weight of every sparse layer, got SGD without 2;"):
        sx.Sparsifier(model, optimizer, sx.RigL(), total_steps=10)
    with pytest.raises(ValueError, match=r"got SGD without 0, 2;"):
        sx.Sparsifier(model, torch.optim.SGD(mlp().parameters(), lr=0.1), sx.Static(), total_steps=10)


def test_factored_state_is_noticed_at_construction():
    model = mlp()
    with pytest.raises(ValueError, match=r"got Factored: expected .* weight's shape \(24,\), got 'row_mean' of shape \(3,\)"):
        build(model, optimizer=Factored(model.parameters()))
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    optimizer.state[model[2].weight]["row_mean"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"AdamW: expected .* weight's shape \(144,\), got 'row_mean' of shape \(3,\)"):
        build(model, optimizer=optimizer)
    build(model, sx.Static(), optimizer=optimizer)  # nothing has to follow


@pytest.mark.parametrize("method", [name for name, kind in sx.METHODS.items() if not kind.trains_dense_layers])
def test_a_model_without_sparse_layers_is_refused(method):
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"expected a model with trainable sparse layers, got none; call sparsify_"):
        build(model, sx.METHODS[method]())
    frozen = mlp()
    frozen.requires_grad_(False)
    frozen[4].requires_grad_(True)
    with pytest.raises(ValueError, match="trainable sparse layers"):
        build(frozen, sx.METHODS[method]())


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


COMPUTED = {
    "parametrization": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "norm": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.parametrize("method", [sx.SET(), sx.RigL()])
def test_a_weight_that_is_computed_is_refused(method, how):
    """Beside others and alone, at first and later. One whose pattern stays trains, and so does one that is frozen."""
    model = mlp()
    sparsifier = build(model, method)[2]
    COMPUTED[how](model[0])
    sentence = "expected sparse weights that are Parameters, got computed ones in 0 "
    for again in (sparsifier.step, lambda: build(model, method), lambda: build(model[:2], method)):
        with pytest.raises(ValueError, match=sentence):
            again()
    build(model, {"0": sx.Static(), "*": method})
    model[0].requires_grad_(False)
    build(model, method)


@pytest.mark.parametrize("total_steps", [0, -3])
def test_total_steps_below_one_is_refused(total_steps):
    with pytest.raises(ValueError, match=f"expected total_steps of at least 1, got {total_steps}"):
        build(total_steps=total_steps)


def trained():
    model, optimizer, sparsifier = build()
    run(model, optimizer, sparsifier, range(1, 9))
    return model, optimizer, sparsifier


def wider():
    """The same names, other shapes."""
    model = mlp()
    model[2] = sx.SparseLinear(20, 30)
    model[4] = nn.Linear(30, 6)
    return model


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"method": sx.SET(update_interval=3, t_end=1.0)}, "expected the state of method .*'RigL'.*, got .*'SET'"),
        ({"method": sx.RigL(update_interval=4, t_end=1.0)}, "expected the state of method .*'update_interval': 3.* 4"),
        ({"model": nn.Sequential(mlp()[0])}, re.escape("expected the state of layers ['0', '2'], got ['0']")),
        ({"model": nn.Sequential(mlp())}, re.escape("expected the state of layers ['0', '2'], got ['0.0', '0.2']")),
        ({"model": wider()}, "expected the state of layers"),
    ],
    ids=["another method", "other choices", "fewer layers", "other names", "other shapes"],
)
def test_state_of_something_else_is_refused_and_changes_nothing(other, sentence):
    model, optimizer, sparsifier = trained()
    state = build(**other)[2].state_dict()
    before = sparsifier.state_dict()
    tensors = everything(model, optimizer)
    with pytest.raises(ValueError, match=sentence):
        sparsifier.load_state_dict(state)
    after = sparsifier.state_dict()
    assert_same(after.pop("coverage"), before.pop("coverage"))
    assert after == before
    assert_same(everything(model, optimizer), tensors)
    assert run(model, optimizer, sparsifier, range(9, 10)) == 1  # still armed


@pytest.mark.parametrize("key", ["method", "coverage", "step", "replaced"])
def test_an_incomplete_state_is_refused_and_changes_nothing(key):
    _, _, sparsifier = trained()
    state = build()[2].state_dict()
    del state[key]
    before = sparsifier.state_dict()
    with pytest.raises((ValueError, KeyError), match=key):
        sparsifier.load_state_dict(state)
    after = sparsifier.state_dict()
    assert_same(after.pop("coverage"), before.pop("coverage"))
    assert after == before


def test_track_refuses_models_that_are_no_copies():
    model, optimizer, sparsifier = trained()
    with pytest.raises(ValueError, match="track: expected a copy of the sparse layer '0', got none"):
        sparsifier.track(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="track: expected '0' with the same pattern in both models"):
        sparsifier.track(mlp(seed=1))
    run(model, optimizer, sparsifier, range(9, 13))  # neither was kept


def test_no_decay_groups_get_a_warning():
    """timm's `param_groups_weight_decay` and its like put every 1-D parameter among biases and norms."""
    model = mlp()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}])
    with pytest.warns(UserWarning, match=r"no weight decay for the sparse weights of 0, 2, .* `ndim < 2`"):
        sx.Sparsifier(model, optimizer, sx.RigL(), total_steps=10)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_other_groups_get_none(decay, recwarn):
    """All decay, or none: a decision. Biases without decay: the recipe done right."""
    model = mlp()
    build(model)
    weights = [m.weight for m in model if hasattr(m, "weight")]
    biases = [m.bias for m in model if hasattr(m, "bias")]
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}])
    sx.Sparsifier(model, optimizer, sx.RigL(), total_steps=1000)
    assert not recwarn.list
