"""Checkpoints of version 1 (tests/fixtures/v1): they load, and training goes on as it did then.

Made by the last commit before version 2: `mlp` of training.py, AdamW, `Sparsifier(total_steps=100, seed=5)`, saved after `step`
steps; "expected" is what 30 more steps gave there. Files named model-* are bare state dicts. Positions have to be the same;
sums may round otherwise on another machine.
"""

import re
from pathlib import Path

import pytest
import torch
from cases import RESUMED
from torch import nn
from training import OPTIMIZERS, batch, method_named, train

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

FOLDER = Path(__file__).parent.parent / "fixtures" / "v1"
RUNS = sorted(path.stem for path in FOLDER.glob("*.pt") if not path.stem.startswith("model"))
MODELS = torch.load(FOLDER / "models-expected.pt", weights_only=True)


def build(saved):
    """Layers of another seed: nothing may come from construction."""
    torch.manual_seed(99)
    dtype = getattr(torch, saved["dtype"])
    first, second = (
        sx.SparseLinear(size, 20, layout=saved["layout"], dtype=dtype, **choices)
        for size, choices in zip((12, 20), saved["layers"], strict=True)
    )
    return nn.Sequential(first, nn.Tanh(), second, nn.ReLU(), nn.Linear(20, 6, dtype=dtype))


def assert_layers(model, expected):
    for name, layer in sparse_layers(model).items():
        assert torch.equal(layer.mask(), expected["masks"][name]), name
        if "dense" in expected:
            torch.testing.assert_close(layer.dense_weight(), expected["dense"][name], **RESUMED)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loads(name):
    expected = MODELS[name]
    model = build(expected)
    model.load_state_dict(torch.load(FOLDER / f"{name}.pt", weights_only=True))
    assert_layers(model, expected)
    torch.testing.assert_close(model(batch(1)[0]), expected["output"])
    again = build(expected)
    again.load_state_dict(model.state_dict())  # by way of today's form
    assert torch.equal(again(batch(1)[0]), model(batch(1)[0]))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on(name):
    saved = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    model, expected = build(saved), saved["expected"]
    optimizer = OPTIMIZERS[saved["optimizer_name"]](model.parameters())
    method = method_named(saved["method"], **saved["choices"])
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=saved["total_steps"], seed=99)
    for part, thing in (("model", model), ("optimizer", optimizer), ("sparsifier", sparsifier)):
        thing.load_state_dict(saved[part])
    assert_layers(model, {"masks": saved["masks"]})
    steps = range(saved["step"] + 1, saved["step"] + saved["more"] + 1)
    assert [step for step, changed in train(model, optimizer, sparsifier, steps) if changed] == expected["changed"]
    assert_layers(model, expected)
    head, *rows, total = expected["report"].splitlines()  # today it shows each layer's layout and average density, too
    layouts = [f"  {row.layout} ({row.reason})" for row in sparsifier.report().layers]
    rows = [row + layout for row, layout in zip(rows, layouts, strict=True)]
    text = re.sub(r"  average|  +[0-9.]+%(?=  +[0-9.]+  )| \(average over the run .*\)", "", str(sparsifier.report()))
    assert text == "\n".join([f"{head}  layout", *rows, total])


def test_a_newer_state_is_refused():
    model = build({"layout": "csr", "dtype": "float32", "layers": [{}, {}]})
    sparsifier = sx.Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), sx.RigL(), total_steps=9)
    version = sparsifier.state_dict()["version"]
    message = rf"expected a Sparsifier's state of version {version} or older, got version {version + 1}: a newer sparse_ext"
    with pytest.raises(ValueError, match=message):
        sparsifier.load_state_dict({"version": version + 1, "something": "else"})
