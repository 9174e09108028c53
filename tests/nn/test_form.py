"""`Form`: a layer of the same form takes a layer's tensors as they are, whatever a new layer would have been."""

import pytest
import torch
from kinds import KINDS
from torch import nn

import sparse_ext as sx
from sparse_ext.nn.form import Form, give_forms_
from sparse_ext.ops import LAYOUTS, auto

CHANGES = {
    "as made": lambda layer: None,
    "larger": lambda layer: layer.enlarge_(layer.product.rows * layer.product.cols - 1),
    "dense weight": lambda layer: layer.store_dense_(),
}

# What a model has before it is loaded: some are sparse by their own code.
MADE = {
    "dense": lambda kind: kind.made_dense(device="meta"),
    "sparse": lambda kind: kind.made(sparsity=0.5, device="meta"),
}


def is_possible(case):
    return case.change != "dense weight" or LAYOUTS[case.layout].pattern.RULES


@pytest.mark.parametrize("before", MADE)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.only("without rules no part of a dense weight can be used", is_possible)
def test_a_layer_of_the_same_form_takes_every_tensor(layout, name, change, before):
    layer = KINDS[name].made(layout=layout)
    CHANGES[change](layer)
    model = nn.Sequential(MADE[before](KINDS[name]))
    give_forms_(model, {"0": Form.of(layer)})
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    wanted = {f"0.{key}": (tensor.dtype, tensor.shape) for key, tensor in layer.state_dict().items()}
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in model.state_dict().items()} == wanted
    model[0].load_state_dict(layer.state_dict(), assign=True)
    assert (Form.of(model[0]), model[0].layout_reason) == (Form.of(layer), "as in the checkpoint")
    assert torch.equal(model(KINDS[name].input()), layer(KINDS[name].input()))


def test_no_choice_of_this_machine_is_made_again(monkeypatch):
    """Elsewhere, "auto" may have stored few zeros as any others; measured here: sparse storage pays from 60 % zeros on."""
    form = Form.of(sx.SparseLinear(16, 8, sparsity=0.5, layout="auto"))
    key = (auto.device_name(torch.device("cpu")), torch.float32, auto.STORAGE)
    monkeypatch.setattr(auto.POLICY, "table", {key: (auto.Row(16, 128, 0, 0.4),)})
    assert sx.SparseLinear(16, 8, sparsity=0.5, layout="auto").layout != form.layout
    assert Form.of(form.given_to(nn.Linear(16, 8))) == form


def test_a_layer_with_two_names_stays_one():
    dense = nn.Linear(12, 9, device="meta")
    model = nn.ModuleDict({"one": dense, "other": nn.Sequential(dense)})
    give_forms_(model, {"one": Form.of(sx.SparseLinear(12, 9))})
    assert isinstance(model["one"], sx.SparseLinear)
    assert model["other"][0] is model["one"]


@pytest.mark.parametrize(
    ("module", "changed", "message"),
    [
        (nn.ReLU(), {}, r"1: expected a layer with a weight of shape \(9, 12\), got ReLU"),
        (nn.Linear(12, 8), {}, r"1: expected .* of shape \(9, 12\), got Linear\(in_features=12, out_features=8"),
        (nn.Linear(12, 9), {"layout": "unknown"}, "1: expected layout to be one of .*, got 'unknown'"),
        (
            nn.Linear(12, 9),
            {"layout": "dense", "dense_weight": True},
            "1: expected a layout that takes a part .*, got 'dense'",
        ),
    ],
)
def test_what_cannot_have_the_form_is_refused(module, changed, message):
    form = Form.of(sx.SparseLinear(12, 9))
    model = nn.Sequential(nn.Linear(12, 9), module)
    before = list(model)
    with pytest.raises(ValueError, match=message):
        give_forms_(model, {"0": form, "1": form._replace(**changed)})
    assert list(model) == before


def test_what_a_layer_was_asked_for_and_made_for_is_part_of_its_form(monkeypatch):
    """And of no form that has nothing to say of it, as earlier versions wrote them."""
    key = (auto.device_name(torch.device("cpu")), torch.float32, auto.STORAGE)
    monkeypatch.setattr(auto.POLICY, "table", {key: (auto.Row(16, 128, 0, 0.4),)})
    plain, layer = (sx.SparseLinear(16, 8, sparsity=0.5, layout=layout) for layout in ("csr", "auto"))
    layer.aim_at_(0.1)
    assert Form.of(layer).written().items() >= {"layout": "masked", "asked": "auto", "target": 13}.items()
    assert set(Form.of(plain).written()) == {"layout", "shape", "nnz", "capacity", "dense_weight"}
    for one in (plain, layer):
        made = Form(**Form.of(one).written()).given_to(nn.Linear(16, 8))
        assert (made.asked, made.layout, made.target_nnz) == (one.asked, one.layout, one.target_nnz)
