"""Models of other packages, sparse from the first step: what is converted, that it trains, and that it is saved as it is."""

import copy

import pytest
import torch
import transformers
from models import MODELS

import sparse_ext as sx
import sparse_ext.hf
from sparse_ext.nn import sparse_layers

# A model says which layers it cannot convert; which ones these are is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:sparsify_")


@pytest.fixture(params=MODELS)
def row(request):
    if request.param in ("gcn", "gat"):
        pytest.importorskip("torch_geometric")
    return MODELS[request.param]


def converted(row):
    return sx.sparsify_(row.make(), 0.8)


@torch.no_grad()
def output(model, row):
    """Of a copy, whose weights are aligned as any: where a file lies in memory, dense products may round otherwise."""
    return copy.deepcopy(model).eval()(**row.inputs)[1]


def trained(row):
    """Five steps under RigL, of which two change the patterns."""
    model = converted(row).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=2), total_steps=10)
    changed = []
    for _ in range(5):
        loss = model(**row.inputs)[0]
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
        changed.append(sparsifier.step())
        optimizer.zero_grad()
    assert changed.count(True) == 2
    return model


def loaded(model, row, folder):
    """Saved, and loaded into a fresh model; by Hugging Face's own means where it is one of theirs."""
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder)
    torch.save(model.state_dict(), folder / "model.pt")
    fresh = converted(row)
    fresh.load_state_dict(torch.load(folder / "model.pt"))
    return fresh


def test_what_is_converted_and_why_the_rest_is_not(row):
    summary = sx.summary(converted(row))
    dense = [weight for weight in summary.weights if weight.multiplied and weight.layout is None]
    assert {(weight.kind, weight.why) for weight in dense} == set(row.dense.items())
    assert 1 - summary.dense_share == pytest.approx(row.share, abs=1e-3)


def test_a_trained_model_is_saved_loaded_and_made_dense(row, tmp_path):
    model = trained(row)
    other = loaded(model, row, tmp_path)
    before, after = model.state_dict(), other.state_dict()
    assert before.keys() == after.keys()
    assert not [name for name in before if not torch.equal(before[name], after[name])]
    assert torch.equal(output(model, row), output(other, row))
    sparse = output(model, row)
    assert sparse_layers(model)
    torch.testing.assert_close(output(sx.densify_(model), row), sparse)
    assert not sparse_layers(model)
