"""`make accuracy`: every task and method runs, and results are complete and resumable."""

import json
import math

import pytest

pytest.importorskip("sklearn")
import sparse_ext as sx
from accuracy import runner
from accuracy.contenders import CHOICES, DENSE, contenders, method_of
from accuracy.plan import Filter, Spec, identity, key, methods_part, schedules_part, steps_of
from accuracy.run import execute, flops_of_step
from accuracy.runner import Runner, Watch, jobs_of
from accuracy.store import append, load
from accuracy.tasks import TASKS, quick
from sparse_ext import METHODS
from sparse_ext.machine import describe

QUICK = {name: quick(row) for name, row in TASKS.items()}
DIGITS, CHARS = QUICK["digits"], QUICK["chars"]


def trained(spec):
    row = QUICK[spec.task]
    return execute(spec, row, row.task.steps)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains(task):
    line = trained(Spec(task, "rigl", 0.9, "masked", 0))
    assert json.loads(json.dumps(line)).keys() == line.keys()
    assert {"task", "method", "choices", "sparsity", "init", "seed", "score", "steps"} | describe("cpu").keys() <= line.keys()
    assert (line["steps"], line["choices"]["update_interval"], line["settings"]["init"]) == (24, 4, "masked")
    assert abs(line["density"] - 0.1) < 1e-3
    assert 0.09 < line["flops"] < 0.6
    assert math.isfinite(line["score"] + line["loss"])
    assert min(line["step_s"], line["dense_step_s"], line["seconds"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name):
    contender = contenders()[name]
    for row in TASKS.values():
        method_of(name, contender, row.task)  # its choices are fields of it
    for task in ("digits", "digits-cnn"):
        if contender.tasks is None or task in contender.tasks:
            sparsity = (contender.sparsities or (0.9,))[0]
            line = trained(Spec(task, name, sparsity, "masked", 0))
            assert math.isfinite(line["loss"])
            assert line["density"] >= 1 - sparsity - 0.01


@pytest.mark.parametrize("size", [quick, lambda row: row], ids=["quick", "whole"])
def test_every_contender_has_possible_choices(size):
    for row in map(size, TASKS.values()):
        for name, contender in contenders().items():
            assert method_of(name, contender, row.task)


def test_choices_name_tasks():
    assert {task for row in CHOICES.values() for task in (*row.choices, *(row.tasks or ()))} <= {"*", *TASKS}


def test_a_run_with_the_same_seed_is_the_same():
    one, other = (trained(Spec("digits", "rigl", 0.9, "variance", 3)) for _ in range(2))
    assert (one["score"], one["loss"], one["flops"]) == (other["score"], other["loss"], other["flops"])
    assert one["loss"] != trained(Spec("digits", "rigl", 0.9, "masked", 3))["loss"]


# ---- FLOPs and density ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["static", "rigl"])
def test_flops_are_counted(name):
    """RigL updates every 4 of 24 steps, until three quarters of them: four times."""
    task = DIGITS.task

    def of_step(method):
        model = task.model()
        sx.sparsify_(model, 0.9, init=task.init)
        sparsifier = sx.Sparsifier(model, task.optimizer(model), method, total_steps=24)
        x, y = next(task.batches(0))
        assert sparsifier is not None
        return sx.count_flops(lambda: task.loss(model, (x, y)).backward()) / len(x)

    plain, observed = of_step(sx.Static()), of_step(sx.RigL(update_interval=1))
    expected = plain + (observed - plain) * (4 / 24 if name == "rigl" else 0)
    found = trained(Spec("digits", name, 0.9, "masked", 0))["flops"]
    assert found == pytest.approx(expected / flops_of_step(task), rel=0.01)  # the last batch of an epoch is smaller


def test_density_is_the_mean_over_the_run():
    """FST trains 2:4 for five sixths of the steps, then densely."""
    line = trained(Spec("digits", "fst", 0.5, "masked", 0))
    assert line["density"] == pytest.approx((20 * 0.5 + 4 * 1.0) / 24)
    assert 0.5 < line["flops"] < 0.7


def test_dense_runs_cost_their_budget():
    line = execute(Spec("digits", DENSE, 0.0, "", 0, 0.5), DIGITS, 12)
    assert (line["flops"], line["density"], line["seconds"]) == (0.5, 1.0, 0.5)


# ---- what is run ----------------------------------------------------------------------------------------------------------


def test_filters():
    specs = list(methods_part(TASKS["digits"], Filter(("rigl", "set"), (0.9, 0.95), ("masked",), 2)))
    assert len(set(specs)) == len(specs) == 2 * 2 * 2
    assert {spec.method for spec in specs} == {"rigl", "set"}
    assert [spec.seed for spec in specs] == [0] * 4 + [1] * 4  # whole seeds first
    fst = list(methods_part(TASKS["digits"], Filter(("fst",), (0.9,))))
    assert {spec.sparsity for spec in fst} == {0.5}
    assert not list(methods_part(TASKS["chars"], Filter(("fst",))))
    dense = list(methods_part(TASKS["digits"], Filter((DENSE,), seeds=1)))
    assert [spec.budget for spec in dense] == list(TASKS["digits"].budgets)


def test_every_registered_method_is_run():
    assert METHODS.keys() <= {spec.method for spec in methods_part(TASKS["digits"], Filter())}


def test_schedules_of_all_kinds_are_compared():
    specs = list(schedules_part(TASKS["digits"], Filter()))
    assert {spec.method for spec in specs} >= {"static", "rigl"} | {n for n, kind in METHODS.items() if kind.changes_density}
    assert {(spec.init, spec.budget) for spec in specs} == {("masked", TASKS["digits"].equal_flops)}
    assert not list(schedules_part(TASKS["digits-cnn"], Filter()))


def test_budgets_become_steps():
    spec = Spec("digits", "static", 0.9, "masked", 1, 0.2)
    assert steps_of(Spec("digits", DENSE, 0.0, "", 0, 0.5), DIGITS, []) == 12
    assert steps_of(spec, DIGITS, []) is None
    full = {**identity(Spec("digits", "static", 0.9, "masked", 0), DIGITS), "flops": 0.1}
    assert steps_of(spec, DIGITS, [full]) == 48
    assert steps_of(spec, DIGITS, [{**full, "sparsity": 0.8}]) is None


class Notes(Watch):
    def __init__(self):
        self.left, self.said = None, []

    def starts(self, left, total, lines):
        self.left = left

    def ends(self, sentence, failed):
        self.said.append((sentence, failed))


def test_what_is_in_the_file_is_not_run_again(tmp_path, monkeypatch):
    """Nor what is in a file whose last line was cut off; that line is run anew."""
    executed = []

    def count(spec, *rest):
        executed.append(spec)
        return execute(spec, *rest)

    monkeypatch.setattr(runner, "execute", count)
    file, jobs = tmp_path / "new" / "rows.jsonl", list(jobs_of([DIGITS], ("methods",), Filter((DENSE, "static"))))
    Runner(file, Watch()).run(jobs)
    assert executed == [spec for spec, _ in jobs]
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:50])
    notes = Notes()
    again = Runner(file, notes)
    again.run(jobs)
    assert (notes.left, executed[3:]) == (1, executed[2:3])
    assert [key(row) for row in load(file)] == [key(row) for row in again.rows] == [key(identity(*job)) for job in jobs]
    Runner(file, notes).run(jobs)
    assert notes.left == 0


def test_other_choices_are_another_run():
    columns = identity(Spec("digits", "rigl", 0.9, "masked", 0), DIGITS)
    assert key(json.loads(json.dumps(columns))) == key(columns)
    assert key({**columns, "choices": {**columns["choices"], "drop_fraction": 0.5}}) != key(columns)
    assert key(identity(Spec("digits", "rigl", 0.9, "masked", 0), TASKS["digits"])) != key(columns)
    older = {name: value for name, value in columns["choices"].items() if name != "gradient_steps"}  # before there was this one
    assert key({**columns, "choices": older}) == key(columns)


def test_a_run_that_fails_does_not_end_the_others(tmp_path):
    """Neither an error in training, nor a budget of which nothing is known."""
    notes = Notes()
    wrong = Spec("digits", "static", 1.5, "masked", 0)
    unpaid = Spec("digits", "static", 0.9, "masked", 0, 0.2)
    jobs = [(wrong, DIGITS), (unpaid, DIGITS), (Spec("digits", DENSE, 0.0, "", 0, 0.5), DIGITS)]
    runs = Runner(tmp_path / "rows.jsonl", notes)
    runs.run(jobs)
    assert [failed for _, failed in notes.said] == [True, False, True]
    assert "run of this method at full length first" in runs.failed[1]
    assert [row["method"] for row in runs.rows] == [DENSE]


@pytest.mark.slow
def test_several_processes(tmp_path):
    jobs = list(jobs_of([DIGITS], ("methods", "schedules"), Filter((DENSE, "static", "set"))))
    runs = Runner(tmp_path / "rows.jsonl", Watch(), processes=2)
    runs.run(jobs)
    assert not runs.failed
    assert {key(row) for row in load(tmp_path / "rows.jsonl")} == {key(identity(*job)) for job in jobs}


def test_a_line_that_was_cut_off_gives_way(tmp_path):
    file = tmp_path / "rows.jsonl"
    append(file, {"a": 1})
    with file.open("a") as end:
        end.write('{"a": ')
    assert load(file) == [{"a": 1}]
    append(file, {"a": 2})
    assert load(file) == [{"a": 1}, {"a": 2}]
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n'


# ---- the command line -----------------------------------------------------------------------------------------------------


def test_the_command_runs_what_is_asked_for(tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    from accuracy.__main__ import main

    asked = ["--task", "digits", "--methods", "static,rigl", "--sparsities", "0.9", "--quick"]
    where = ["--out", str(tmp_path / "rows.jsonl"), "--docs", str(tmp_path)]
    main([*asked, *where])
    assert [row["method"] for row in load(tmp_path / "rows.jsonl")] == ["static", "rigl"] * 2  # the second time at equal FLOPs
    main([*where, "--quick", "--report"])
    assert "| rigl | 1 |" in (tmp_path / "accuracy.md").read_text()
    with pytest.raises(SystemExit):
        main(["--methods", "rigle", *where])
    assert "rigle" in capsys.readouterr().err
