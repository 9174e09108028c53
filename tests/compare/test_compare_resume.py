"""An interrupted comparison goes on where it was: results are those of an uninterrupted one, bit for bit but for time."""

import json
import os
import sys
from pathlib import Path

import children
import pytest
import torch
from tiny import DENSE, RIGL, FakeMeter, compared, config, timeless

from sparse_ext.compare import compare, comparison
from sparse_ext.compare.progress import Watch
from sparse_ext.ops.auto import POLICY

SEVERAL = (
    RIGL | {"choices": {"update_interval": 4, "gradient_steps": 2}},
    {"name": "GMP", "kind": "sparse", "sparsity": 0.8, "method": "gmp", "choices": {"update_interval": 3}},
    {"name": "FST", "kind": "sparse", "layout": "2:4", "method": "fst"},
    {"name": "SAT", "kind": "sparse", "method": "sat", "keeps_layers": True, "choices": {"update_interval": 5}},
    {"name": "low rank", "kind": "low rank", "matches": "RigL", "share": 0.5},
    {"name": "early", "kind": "early stop", "patience": 1},
)
TWO = {"repeats": 2, "steps": 18, "turns": 3, "evaluations": 3}


class Interrupted(Exception):
    """Of these tests."""


class Stops(Watch):
    """After so many turns."""

    def __init__(self, turns):
        self.left = turns

    def turn(self, name, contestant):
        self.left -= 1
        if self.left == 0:
            raise Interrupted


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("whole"), *SEVERAL, **TWO)


def interrupted(folder, turns):
    with pytest.raises(Interrupted):
        compared(folder, *SEVERAL, watch=Stops(turns), **TWO)


def untimed(notes):
    """Those that tell of no seconds."""
    return [note for note in notes if "seconds" not in note]


@pytest.mark.parametrize("stops", [(1,), (9, 5), (24,)], ids=str)
def test_resumed_equals_uninterrupted(tmp_path, whole, stops):
    """In the first turn; in the middle of one, twice; in the second repeat. What was not written whole does not count."""
    for turns in stops:
        interrupted(tmp_path, turns)
        for name in ("arm-0.pt", "arm-6.pt", "repeat-1.json"):
            (tmp_path / "state" / f"{name}.unfinished").write_bytes(b"half of it")
    record = compared(tmp_path, *SEVERAL, **TWO)
    assert timeless(record) == timeless(whole)
    assert untimed(record.notes) == untimed(whole.notes)


def test_a_finished_comparison_is_not_trained_again(tmp_path):
    first = compared(tmp_path, meter=FakeMeter(joules=60.0), idle_s=0.01)
    again = compared(tmp_path, meter=FakeMeter(joules=60.0), idle_s=0.01, watch=Stops(1))
    assert again == first
    with pytest.raises(Interrupted):
        compare(config(), folder=tmp_path, meter=FakeMeter(), watch=Stops(1), fresh=True)


def test_states_of_another_repeat_do_not_count(tmp_path):
    """As they are left behind where a process ends between two files."""
    short = {"repeats": 2, "turns": 2, "evaluations": 1}
    with pytest.raises(Interrupted):
        compared(tmp_path / "a", watch=Stops(4), **short)  # all turns of the first repeat
    left = {path: path.read_bytes() for path in (tmp_path / "a" / "state").glob("arm-*.pt")}
    with pytest.raises(Interrupted):
        compared(tmp_path / "a", watch=Stops(1), **short)
    (lost,) = (path for path in left if not path.exists())
    lost.write_bytes(left[lost])
    assert timeless(compared(tmp_path / "a", **short)) == timeless(compared(tmp_path / "b", **short))


def test_finished_repeats_are_kept_and_states_of_arms_are_not(tmp_path):
    compared(tmp_path)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "began.json", "end.json", "repeat-0.json", "start.json",
    ]  # fmt: skip


def test_another_config_is_refused_by_what_differs(tmp_path):
    compared(tmp_path)
    with pytest.raises(
        ValueError, match=r"got another one, which differs in config: steps \(24, now 30\), config: tolerance \(0.1, now 0.2\)"
    ):
        compared(tmp_path, steps=30, tolerance=0.2)
    with pytest.raises(ValueError, match=r"config: arm; .* --fresh"):
        compared(tmp_path, RIGL | {"name": "another"})


def test_another_machine_is_refused(tmp_path):
    compared(tmp_path)
    path = tmp_path / "state" / "began.json"
    began = json.loads(path.read_text())
    began["machine"]["cpu"], began["versions"]["torch"] = "another CPU", "2.0"
    path.write_text(json.dumps(began))
    with pytest.raises(ValueError, match=r"machine: cpu \(another CPU, now .*\), versions: torch \(2.0, now "):
        compared(tmp_path)


def test_another_task_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = Path("squares_of_mine.py")
    source.write_text("from tiny import Squares\nclass Mine(Squares):\n    pass\n")
    compared(tmp_path / "out", task="squares_of_mine:Mine")
    source.write_text(source.read_text() + "    metric = 'another'\n")
    with pytest.raises(ValueError, match=r"differs in the task's source; .* --fresh"):
        compared(tmp_path / "out", task="squares_of_mine:Mine")


def test_the_commit_is_that_of_the_beginning(tmp_path, monkeypatch):
    said = iter("abccd")
    monkeypatch.setattr(comparison, "versions", lambda: {"torch": "2", "commit": next(said)})
    with pytest.raises(Interrupted):
        compared(tmp_path, watch=Stops(3))
    for _ in range(2):  # a finished one is from no later commit
        record = compared(tmp_path)
        assert record.versions["commit"] == "a"
        assert "It began at commit a, and was interrupted and ended at commit b." in record.notes


@pytest.mark.parametrize(("name", "sentence"), [("arm-1.pt", "expected an arm's state"), ("start.json", "expected JSON")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, sentence):
    with pytest.raises(Interrupted):
        compared(tmp_path, watch=Stops(3))
    (tmp_path / "state" / name).write_bytes(b"{no")
    with pytest.raises(ValueError, match=rf"{name}: {sentence}.*remove it"):
        compared(tmp_path)


def test_threads_are_as_before_also_after_an_error(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(Interrupted):
            compared(tmp_path, watch=Stops(1), threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_killed_process(tmp_path, whole):
    children.run((__file__, tmp_path))
    assert not (tmp_path / "report.json").exists()
    assert timeless(compared(tmp_path, *SEVERAL, **TWO)) == timeless(whole)
    assert DENSE["name"] in timeless(whole)


if __name__ == "__main__":
    POLICY.table = {}  # as in the tests' own process
    try:
        compared(Path(sys.argv[1]), *SEVERAL, watch=Stops(10), **TWO)
    except Interrupted:
        os._exit(0)  # as if killed: nothing is tidied up
