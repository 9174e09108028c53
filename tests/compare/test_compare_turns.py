"""Arms take turns, A B A B, see the same batches, and do not disturb each other."""

import pytest
import torch
from tiny import DENSE, RIGL, compared, timeless

from sparse_ext.compare.contestant import _is_due
from sparse_ext.compare.progress import Watch
from sparse_ext.compare.training import Training

BFLOAT16 = {"name": "bfloat16", "kind": "dense", "precision": "bfloat16"}


class Notes(Watch):
    def __init__(self):
        self.turns = []

    def turn(self, name, contestant):
        self.turns.append((name, contestant.training.seed, contestant.training.step))


def test_arms_take_turns(tmp_path):
    notes = Notes()
    compared(tmp_path, RIGL, BFLOAT16, repeats=2, turns=4, evaluations=2, watch=notes)
    names = ["dense", "RigL", "bfloat16"]
    assert notes.turns == [(name, seed, step) for seed in (0, 1) for step in (6, 12, 18, 24) for name in names]


def test_arms_see_the_same_batches(tmp_path, monkeypatch):
    seen, whole = {}, Training.train_until

    def noted(training, step):
        following = training._next_batch
        training._next_batch = lambda: note(training, following())
        whole(training, step)
        training._next_batch = following

    def note(training, batch):
        seen.setdefault((id(training), training.contender.name, training.seed), []).append(batch)
        return batch

    monkeypatch.setattr(Training, "train_until", noted)
    compared(tmp_path, RIGL, BFLOAT16, repeats=2)
    whole_runs = {key[1:]: batches for key, batches in seen.items() if len(batches) == 24}  # others are rehearsals
    assert whole_runs.keys() == {(name, seed) for name in ("dense", "RigL", "bfloat16") for seed in (0, 1)}
    for seed in (0, 1):
        for name in ("RigL", "bfloat16"):
            for ours, theirs in zip(whole_runs[name, seed], whole_runs["dense", seed], strict=True):
                assert all(map(torch.equal, ours, theirs))
    assert not torch.equal(whole_runs["dense", 0][0][0], whole_runs["dense", 1][0][0])


def test_an_arm_does_as_well_whoever_is_beside_it(tmp_path):
    """Though all use the global random generator for dropout; nor do turns matter, or the user's own random numbers."""
    torch.manual_seed(5)
    ours = torch.rand(3)
    torch.manual_seed(5)
    alone = timeless(compared(tmp_path / "a", RIGL))
    assert torch.equal(torch.rand(3), ours)
    beside = timeless(compared(tmp_path / "b", BFLOAT16, RIGL))
    assert {name: beside[name] for name in alone} == alone
    assert beside["bfloat16"][0].score != beside["dense"][0].score
    in_one_turn = timeless(compared(tmp_path / "c", RIGL, turns=1, evaluations=1))
    assert [in_one_turn[name][0].score for name in alone] == [alone[name][0].score for name in alone]


@pytest.mark.parametrize(("turns", "evaluations"), [(6, 3), (7, 3), (40, 10), (5, 5), (3, 1)])
def test_evaluations_are_spread_and_the_last_turn_has_one(turns, evaluations):
    due = [turn for turn in range(1, turns + 1) if _is_due(turn, turns, evaluations)]
    assert len(due) == evaluations
    assert due[-1] == turns
    gaps = [b - a for a, b in zip([0, *due], due, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_an_arm_of_fewer_steps_than_turns_is_trained_whole(tmp_path):
    short = {"name": "short", "kind": "equal flops", "steps": 2}
    record = compared(tmp_path, RIGL, short)
    (run,) = record.arms[2].runs
    assert (run.steps, [point.step for point in run.curve]) == (2, [1, 2])
    assert DENSE["name"] == record.arms[0].name
