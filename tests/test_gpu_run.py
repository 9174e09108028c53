"""`make gpu` without a GPU: its plan, and how it reads what the steps print."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "tools" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(gpu, tmp_path):
    return gpu.Run(tmp_path / "out", 60)


def said(run):
    return (run.out / "summary.txt").read_text()


def test_what_never_passed_comes_first(gpu, tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = {"operator": "csr_spmm", "isa": "sm_80", "passed": 9, "failed": 0}
    rows.write_text("".join(json.dumps(r) + "\n" for r in (row, row | {"operator": "regrow", "failed": 1})))
    known = gpu.passed_before(rows)
    assert known == {("csr_spmm", "sm_80")}
    units = gpu.kernels({"regrow": ("sm_90a",)}, ["csr_spmm", "regrow"], known)
    assert units == [("csr_spmm", "sm_90a"), ("regrow", "sm_80"), ("csr_spmm", "sm_80")]
    assert gpu.passed_before(tmp_path / "none.jsonl") == set()


@pytest.mark.parametrize("mode", ["full", "quick"])
def test_a_plan_tests_every_kernel_by_itself_and_fits(gpu, mode):
    units = gpu.known_kernels()
    steps = gpu.plan(mode, units, "9.0")
    assert [step.kernel for step in steps if step.kernel] == units
    assert "90a-real" in " ".join(steps[0].command)
    others = sum(step.seconds for step in steps if step.kernel is None and not step.optional)
    assert others < gpu.SECONDS[mode] <= {"full": 420, "quick": 180}[mode]
    assert {step.log for step in steps} <= {"build.log", "tests.log", "memcheck.log", "racecheck.log", "bench.log"}


def test_sanitizers_run_a_sample_of_every_room_at_once(gpu):
    steps = [step for step in gpu.plan("full", []) if step.group in ("memcheck", "racecheck")]
    assert len(steps) == 2 * len(gpu.SANITIZED) <= 2 * gpu.AT_ONCE
    assert not [step for step in gpu.plan("quick", []) if step.group]
    assert {step.group: step.log for step in steps} == {tool: f"{tool}.log" for tool in ("memcheck", "racecheck")}
    from sparse_ext.ops import OPS

    own = [op for op in OPS if op.startswith(("csr", "nm24", "regrow")) or op == "masked_select"]
    left_out = [
        op for op in own if not any(word in op for part in gpu.SANITIZED.values() for word in re.findall(r"[a-z]\w+", part))
    ]
    assert not left_out


def test_steps_of_a_group_run_beside_each_other(gpu, tmp_path, monkeypatch):
    """Each waits for the other's file."""
    wait = "import sys, time, pathlib\nown, other = map(pathlib.Path, sys.argv[1:])\nown.touch()\n"
    wait += "while not other.exists(): time.sleep(0.01)"
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    steps = [step(gpu, wait, group="pair"), step(gpu, wait, group="pair"), step(gpu, "print('1 passed in 0.1s')")]
    steps[:2] = [replace(s, command=[*s.command, *files]) for s, files in zip(steps, ((one, two), (two, one)), strict=False)]
    monkeypatch.setattr(gpu, "OUT", tmp_path / "out")
    monkeypatch.setattr(gpu, "card", lambda: ("a card", "9.0"))
    monkeypatch.setattr(gpu, "build_step", lambda *_: step(gpu, ""))
    monkeypatch.setattr(gpu, "plan", lambda *_: [step(gpu, ""), *steps])
    assert gpu.main(["full"]) == 0
    assert "result: ok" in (tmp_path / "out" / "summary.txt").read_text()


def test_the_plan_can_be_printed(gpu, capsys):
    assert gpu.main(["full", "--plan"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("csr_spmm sm_80", "nm24_gemm sm_90a", "memcheck", "bench bfloat16"))


@pytest.mark.parametrize(
    ("printed", "passed", "failed", "skipped"),
    [
        ("....\n4 passed in 0.10s\n", 4, 0, 0),
        ("=== 2 failed, 31 passed, 5 skipped, 900 deselected in 3.25s ===\n", 31, 2, 5),
        ("1 passed, 2 errors in 61.00s (0:01:01)\n", 1, 2, 0),
        ("no tests ran in 0.01s\n", 0, 0, 0),
        ("Fatal Python error: Aborted\n", 0, 0, 0),
    ],
)
def test_what_pytest_counted(gpu, printed, passed, failed, skipped):
    assert gpu.counts(printed) == {"passed": passed, "failed": failed, "skipped": skipped}


def step(gpu, code, **fields):
    return gpu.Step("a step", 30, "tests.log", [sys.executable, "-c", code], **fields)


def test_a_step_that_fails_is_named_and_the_next_one_runs(gpu, run):
    assert not run.step(step(gpu, "import os; print('1 failed in 0.1s'); os.abort()", kernel=("csr_spmm", "sm_80")))
    assert run.step(step(gpu, "print('3 passed in 0.1s')", kernel=("regrow", "sm_80")))
    assert run.failed
    assert "FAILED with status -6" in said(run)
    rows = [json.loads(line) for line in (run.out / "kernels.jsonl").read_text().splitlines()]
    assert [(row["operator"], row["passed"], row["failed"]) for row in rows] == [("csr_spmm", 0, 1), ("regrow", 3, 0)]


@pytest.mark.parametrize(
    ("code", "seconds", "optional", "word", "failed"),
    [
        ("print('Device not supported'); exit(1)", 30, True, "refused by this machine", False),
        ("import time; time.sleep(30)", 0.5, True, "out of time", False),
        ("import time; time.sleep(30)", 0.5, False, "FAILED: out of time", True),
        ("exit(3)", 30, True, "FAILED with status 3", True),
    ],
    ids=["refused", "late", "late-but-needed", "failed"],
)
def test_what_counts_as_a_failure(gpu, run, monkeypatch, code, seconds, optional, word, failed):
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.0)
    run.step(replace(step(gpu, code, optional=optional), seconds=seconds))
    assert word in said(run)
    assert run.failed is failed


def test_a_missing_program_is_recorded(gpu, run):
    run.step(gpu.Step("memcheck", 30, "memcheck.log", ["no-such-program"], optional=True))
    assert "memcheck: missing" in said(run)
    assert not run.failed


def test_without_time_nothing_is_started(gpu, tmp_path):
    run = gpu.Run(tmp_path, 0)
    run.step(step(gpu, "raise SystemExit(1)", optional=True))
    assert "no time left" in said(run)
    assert not run.failed
