"""The average density over a run: exact, through every kind of update, load and resume, and without waiting for a device."""

import copy

import pytest
import torch
from densities import Steps
from torch import nn
from training import CHANGING, PACKED, chosen_layer, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.nn import SparseLayer

ALL = list(dict.fromkeys(PACKED + CHANGING))


def growing(change=1, total_steps=20):
    """A layer 2 x 4 with 4 entries and one of 2 x 2 with 2, by `Steps`."""
    first = chosen_layer(torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]))
    second = chosen_layer(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    model = nn.Sequential(first, second)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return model, optimizer, sx.Sparsifier(model, optimizer, Steps(change), total_steps=total_steps)


def step(model, optimizer, sparsifier, times):
    for _ in range(times):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()


def averages(sparsifier):
    report = sparsifier.report()
    return [layer.average_density for layer in report.layers] + [report.average_density]


def test_by_hand():
    """nnz in steps 1 to 5 is 4, 4, 5, 5, 6 of 8, and 2, 2, 3, 3, 4 of 4."""
    things = growing()
    assert averages(things[2]) == [0.5, 0.5, 0.5]  # before the first step: the density
    step(*things, 2)
    assert averages(things[2]) == [0.5, 0.5, 0.5]  # what the update has changed counts from the next step on
    step(*things, 3)
    assert averages(things[2]) == [24 / 40, 14 / 20, 38 / 60]
    assert [layer.density for layer in things[2].report().layers] == [6 / 8, 4 / 4]


def test_it_falls_as_it_rises():
    things = growing(change=-1)
    step(*things, 4)
    assert averages(things[2]) == [14 / 32, 6 / 16, 20 / 48]


def test_it_is_in_the_table():
    things = growing()
    step(*things, 5)
    assert "average over the run 63.33%" in str(things[2].report())


@pytest.mark.parametrize(("name", "layout"), ALL)
def test_it_is_the_mean_of_what_was_seen(name, layout):
    """Of any method: nnz of every step, read before it. What is counted on the way is what the layers have."""
    model = mlp(layout=layout, method=name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = method_named(name, update_interval=3, refresh_interval=3, t_end=1.0, dense_tail=0.25)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=12)
    layers, seen = {managed.name: managed.layer for managed in sparsifier._layers}, []
    for number in range(1, 13):
        seen.append({one: layer.nnz for one, layer in layers.items()})
        run(model, optimizer, sparsifier, range(number, number + 1))
        assert {one: int(sparsifier._history._executed[one].work.nnz) for one in layers} == {
            one: layer.nnz for one, layer in layers.items()
        }
    for row in sparsifier.report().layers:
        positions = row.shape[0] * row.shape[1]
        assert row.average_density == pytest.approx(sum(nnz[row.name] for nnz in seen) / (12 * positions), rel=1e-12)


@pytest.mark.parametrize("copied", [False, True], ids=["state_dict", "deepcopy"])
def test_it_resumes(copied):
    things = growing()
    step(*things, 3)
    if copied:
        resumed = copy.deepcopy(things)
    else:
        resumed = growing()
        for thing, state in zip(resumed, [thing.state_dict() for thing in things], strict=True):
            thing.load_state_dict(copy.deepcopy(state))
    assert averages(resumed[2]) == averages(things[2])
    for one in (things, resumed):
        step(*one, 2)
    assert averages(resumed[2]) == averages(things[2])
    assert resumed[2].state_dict()["executed"] == things[2].state_dict()["executed"]


def test_a_state_without_it_counts_from_there():
    """As of an earlier version: nothing is known of its steps."""
    things = growing()
    step(*things, 4)
    state = things[2].state_dict()
    for key in ("executed", "uncounted", "shares"):
        del state[key]
    things[2].load_state_dict(state)
    assert averages(things[2]) == [6 / 8, 4 / 4, 10 / 12]
    step(*things, 1)
    assert averages(things[2]) == [6 / 8, 4 / 4, 10 / 12]
    assert things[2].state_dict()["uncounted"] == 4


def test_a_checkpoint_in_the_midst_counts_from_the_next_step_on():
    things = growing()
    model = things[0]
    begun = copy.deepcopy(model.state_dict())
    step(*things, 3)  # 4, 4, 5
    model.load_state_dict(begun)
    step(*things, 2)  # 4, of which the second update makes 5, and 5
    assert averages(things[2])[0] == (4 + 4 + 5 + 4 + 5) / 40


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("executed", {"0": [1, 2, 3], "1": [0, 0, 0, 0]}, "executed: expected four numbers, none below 0"),
        ("executed", {"0": [1, 2, 3, -1], "1": [0, 0, 0, 0]}, "executed: expected four numbers, none below 0"),
        ("executed", {"0": [0, 0, 0, 0]}, "executed: expected layers 0, 1, got 0"),
        ("uncounted", 9, "uncounted: expected a number of steps from 0 to 3, got 9"),
        ("shares", {"0": [0.5, 1.5], "1": [1.0, 1.0]}, "shares: expected two numbers from 0 to 1"),
    ],
)
def test_a_wrong_state_is_refused(entry, value, sentence):
    things = growing()
    step(*things, 3)
    before = averages(things[2])
    with pytest.raises(ValueError, match=sentence):
        things[2].load_state_dict({**things[2].state_dict(), entry: value})
    assert averages(things[2]) == before


@pytest.mark.parametrize("name", ["sr-ste", "s-ste"])
def test_updates_read_no_count(name, monkeypatch):
    """These update in every step: on a GPU each of them would wait for the device."""
    model = mlp(layout="2:4", method=name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsifier = sx.Sparsifier(model, optimizer, method_named(name), total_steps=20)
    run(model, optimizer, sparsifier, range(1, 3))
    reads = []
    monkeypatch.setattr(SparseLayer, "nnz", property(lambda layer: reads.append(layer) or layer.pattern.nnz))
    assert run(model, optimizer, sparsifier, range(3, 6)) == 3
    assert not reads
