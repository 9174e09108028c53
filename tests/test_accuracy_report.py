"""docs/accuracy.md says what the results say: means, dense training at equal cost, bars."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
from accuracy.bars import BARS, Bar
from accuracy.contenders import DENSE
from accuracy.plan import Spec, identity
from accuracy.report import tables_of, text, write
from accuracy.store import load
from accuracy.table import Table
from accuracy.tasks import TASKS, quick
from sparse_ext.machine import describe

ROOT = Path(__file__).parent.parent
DIGITS = quick(TASKS["digits"])


def lines_of(row, scores):
    """Lines of results as a run leaves them; scores: {(method, sparsity, budget): one for each seed}."""
    for (method, sparsity, budget), of_seeds in scores.items():
        for seed, score in enumerate(of_seeds):
            init = "" if method == DENSE else "masked"
            yield {
                **identity(Spec(row.name, method, sparsity, init, seed, budget), row), "score": score, "loss": 0.5, "steps": 10,
                "flops": 0.1, "density": 0.1, "seconds": 0.5, "step_s": 1e-3, "dense_step_s": 2e-3, **describe("cpu"),
            }  # fmt: skip


TINY = {
    (DENSE, 0.0, 0.05): [90.0, 91.0],
    (DENSE, 0.0, 0.2): [94.0, 95.0],
    (DENSE, 0.0, 1.0): [97.0, 98.0],
    ("static", 0.95, None): [80.0, 90.0],
    ("set", 0.95, None): [84.0, 91.0],
    ("rigl", 0.95, None): [94.0, 94.0],
    ("rigl", 0.9, 0.2): [95.0, 97.0],
}


def tiny():
    return Table(list(lines_of(TASKS["digits"], TINY)), TASKS["digits"])


def test_dense_runs_are_compared_at_the_share_that_a_method_takes():
    table = tiny()
    assert table.at_share(0.05) == 90.5
    assert table.at_share(0.1) == pytest.approx(92.5)  # half way from 0.05 to 0.2, in the logarithm
    assert table.at_share(0.04) is table.at_share(2.0) is table.at_share(None) is None


def test_the_later_of_two_lines_counts_and_other_lengths_and_choices_do_not():
    rows = list(lines_of(TASKS["digits"], TINY))
    rows += lines_of(TASKS["digits"], {("rigl", 0.95, None): [90.0]})
    rows += lines_of(DIGITS, {("rigl", 0.95, None): [10.0, 10.0]})
    rows += [{**row, "choices": {**row["choices"], "drop_fraction": 0.5}, "score": 10.0} for row in rows if row["choices"]]
    rows += [{**row, "method": "no longer there", "score": 10.0} for row in rows]
    assert Table(rows, TASKS["digits"]).method("rigl", 0.95).scores == {0: 90.0, 1: 94.0}


def bar(text):
    (found,) = [bar for bar in BARS if bar.text == text and bar.task == "digits"]
    return found


@pytest.mark.parametrize(
    ("text", "verdict", "measured"),
    [
        ("rigl at 95%: at least 94.5 %", "**fails**", "94.00 ± 0.00 (2 seeds)"),
        ("rigl is ahead of static by 4 points at 95%", "holds", "9.00 ± 7.07 (2 seeds)"),
        ("set is ahead of static by 2.5 points at 95%", "holds", "2.50 ± 2.12 (2 seeds)"),  # 4 and 1: exactly the bar
        ("rigl at 90%: at least 95.5 %", "not measured", "-"),  # at a budget, it is, but not at full length
    ],
)
def test_bars(text, verdict, measured):
    assert bar(text).verdict(tiny()) == (verdict, measured)


def test_of_a_loss_less_is_better_and_only_common_seeds_are_compared():
    scores = {("static", 0.8, None): [3.0, 2.9], ("rigl", 0.8, None): [2.9]}
    table = Table(list(lines_of(TASKS["chars"], scores)), TASKS["chars"])
    (lead,) = [bar for bar in BARS if bar.task == "chars" and "80%" in bar.text]
    assert lead.measured(table) == [pytest.approx(0.1)]
    assert lead.verdict(table) == ("holds", "0.100 (1 seed)")


def test_within_points_of_dense():
    near = Bar("digits", "", lambda table: table.method("rigl", 0.95), -4.0, Table.dense)
    assert near.measured(tiny()) == [-3.0, -4.0]
    assert near.verdict(tiny())[0] == "holds"


def test_the_report_has_every_result():
    report = text(tables_of(list(lines_of(TASKS["digits"], TINY)), TASKS))
    for line in (
        "Dense: 97.50 ± 0.71 accuracy %, 2 seeds.",
        "| rigl | 2 | 94.00 ± 0.00 |",
        "| accuracy % | 90.50 ± 0.71 | 94.50 ± 0.71 | 97.50 ± 0.71 |",
        # Dense with 0.1 of its FLOPs has 92.5; with half of its seconds log(2.5) / log(5) of the way from 94.5 to 97.5.
        "| rigl | 95% | 94.00 | 0.100 | 0.100 | 0.50 | 92.50 | 96.21 |",
        "| rigl | 90% | 0.100 | 10 | 0.100 | 0.500 ± 0.000 | 96.00 ± 1.41 |",
    ):
        assert line in report.splitlines()
    assert "## chars" not in report
    assert "not measured" in report


def test_a_remark_stands_before_the_scores():
    row = replace(TASKS["digits"], remark="Mind the seeds.")
    report = text(tables_of(list(lines_of(row, TINY)), {"digits": row}))
    assert report.index("Dense: 97.50") < report.index("\n\nMind the seeds.\n\n") < report.index("| rigl | 2 |")


def test_without_results_there_is_only_an_introduction():
    assert "##" not in text(tables_of([], TASKS))


def test_the_report_and_its_plots_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    path = write(list(lines_of(TASKS["digits"], TINY)), TASKS, tmp_path)
    plots = {found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.png")}
    assert len(plots) == 2
    assert all(f"({plot})" in path.read_text() for plot in plots)


def test_the_document_is_that_of_its_rows():
    rows = load(ROOT / "bench/results/accuracy.jsonl")
    if not rows:
        pytest.skip("no results are checked in yet")
    assert (ROOT / "docs/accuracy.md").read_text() == text(tables_of(rows, TASKS))
