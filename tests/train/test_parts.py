"""Methods for parts of a model, by patterns of layer names."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training import OPTIMIZERS, assert_same, everything, masks, mlp, run

import sparse_ext as sx
from sparse_ext.methods import Regrow

RIGL = sx.RigL(drop_fraction=0.4, update_interval=3, t_end=1.0)


def trainer(method, model=None):
    model = mlp() if model is None else model
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100)


def test_the_first_pattern_that_matches_counts():
    model, optimizer, sparsifier = trainer({"2": RIGL, "*": sx.Static()})
    before = masks(model)
    assert run(model, optimizer, sparsifier, range(1, 10)) == 3
    assert torch.equal(masks(model)["0"], before["0"])
    assert not torch.equal(masks(model)["2"], before["2"])


def test_one_method_for_all_by_pattern_trains_as_that_method():
    outcomes = []
    for method in (RIGL, {"*": RIGL}, {"0": RIGL, "2": RIGL}):
        trio = trainer(method)
        run(*trio, range(1, 11))
        outcomes.append(everything(*trio[:2]))
    assert_same(outcomes[1], outcomes[0])
    assert_same(outcomes[2], outcomes[0])


def test_each_part_has_its_own_schedule():
    model, optimizer, sparsifier = trainer({"0": sx.SET(update_interval=2, t_end=1.0), "2": RIGL})
    changed = {"0": [], "2": []}
    for step in range(1, 7):
        before = masks(model)
        run(model, optimizer, sparsifier, range(step, step + 1))
        for name, mask in masks(model).items():
            if not torch.equal(mask, before[name]):
                changed[name].append(step)
    assert changed == {"0": [2, 4, 6], "2": [3, 6]}


def test_a_postponed_part_waits_alone():
    """Its gradient is infinite in step 3; step 4 is its turn, and the other part's schedule goes on."""
    model, optimizer, sparsifier = trainer({"0": sx.SET(update_interval=3, t_end=1.0), "2": RIGL})
    changed = []
    for step in range(1, 5):
        before = masks(model)
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        (model(x).sum() * (float("inf") if step == 3 else 1.0)).backward()
        sparsifier.step()
        changed.append([name for name, mask in masks(model).items() if not torch.equal(mask, before[name])])
        optimizer.zero_grad()
    assert changed == [[], [], ["0"], ["2"]]


def test_parts_of_two_layouts():
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.7), nn.ReLU(), sx.SparseLinear(20, 12, layout="2:4"))
    model, optimizer, sparsifier = trainer({"0": RIGL, "2": sx.FST(refresh_interval=2)}, model)
    assert (model[0].chosen_by, model[2].chosen_by.name) == (None, "transposable")
    for _ in range(6):
        model(torch.randn(8, 12)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert sparsifier.report().updates == 4  # 2, 3, 4 and both at 6


def test_a_state_goes_with_its_patterns():
    parts = {"2": RIGL, "*": sx.Static()}
    model, optimizer, sparsifier = trainer(parts)
    run(model, optimizer, sparsifier, range(1, 6))
    state = sparsifier.state_dict()
    other = trainer(parts)[2]
    other.load_state_dict(state)
    assert other.report() == sparsifier.report()
    with pytest.raises(ValueError, match="expected the state of method"):
        trainer(RIGL)[2].load_state_dict(state)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"2": RIGL}, "a method for every sparse layer, got none for 0; add '*': Static()"),
        ({"*": RIGL, "encoder.*": sx.SET()}, "patterns that match layers, got 'encoder.*', which match none"),
        (
            {"0": RIGL, "*": sx.FST()},
            "FST chooses 'transposable' of dense weights: expected layers of layout '2:4', got others: 2",
        ),
    ],
)
def test_parts_that_do_not_fit_get_a_sentence(parts, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        trainer(parts)


@dataclass(frozen=True)
class Unequal(sx.Static):
    """Orders these counts of every layer at step 1."""

    drop: int = 2
    grow: int = 2

    def is_update(self, time):
        return time.step == 1

    def plan(self, layers, time):
        return dict.fromkeys(layers, Regrow(self.drop, self.grow)) if time.step == 1 else {}


def test_a_layout_that_cannot_grow_other_counts_than_it_drops_refuses():
    """Of 2:4 two of every four stay; the report would book what was ordered."""
    model = nn.Sequential(sx.SparseLinear(8, 6, layout="2:4"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, Unequal(drop=2, grow=1), total_steps=9)
    before, mask = everything(model, optimizer), model[0].mask()
    with pytest.raises(ValueError, match=r"as many positions to grow as to drop .* got drop 2, grow 1"):
        sparsifier.step()
    assert_same(everything(model, optimizer), before)
    assert torch.equal(model[0].mask(), mask)


@pytest.mark.parametrize("inputs", [8, 9, 10, 11])
def test_the_report_books_what_has_changed(inputs):
    """Groups of one or two columns have no alternative, so fewer than all positions change."""
    model = nn.Sequential(sx.SparseLinear(inputs, 6, layout="2:4"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nnz, before = model[0].nnz, model[0].mask()
    sparsifier = sx.Sparsifier(model, optimizer, Unequal(drop=nnz, grow=nnz), total_steps=9)
    assert sparsifier.step()
    now = model[0].mask()
    (row,) = sparsifier.report().layers
    assert round(row.replaced * nnz) == round(row.replaced_last * nnz) == int((now & ~before).sum()) > 0
    assert round(row.flip_rate * now.numel()) == int((now ^ before).sum())
    assert round(row.coverage * now.numel()) == int((now | before).sum())
