"""The pages: every part of a record is on them, and what is unknown says so."""

from dataclasses import replace

import pytest
from records import NO_COUNTER, arm, record, with_arms

from sparse_ext.report import beside, figures, markdown, table
from sparse_ext.report.record import Interval
from sparse_ext.report.verdict import judged


def page(one):
    return markdown.page(judged(one))


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_first_line_below_the_title_is_the_headlines():
    one = judged(record())
    assert markdown.page(one).splitlines()[:3] == ["# A comparison", "", f"**{one.headline[0]}**"]


def test_every_section_has_every_arm():
    text = page(record(joules=True))
    for title in ("Verdicts", "What was spent", "Energy", "Memory", "As good as the reference"):
        for name in ("dense", "RigL"):
            assert f"\n| {name} |" in section(text, title), title


def test_figures_of_an_arm():
    text = page(record(joules=True))
    assert "| RigL | 180 | 126 | 0.05625 | 43.92 |" in section(text, "Energy")
    assert "| RigL | 1.00 kB | 500 B | 1.00 kB | 2.00 kB | 4.00 kB | 8.50 kB |" in section(text, "Memory")
    spent = "| RigL | 100 | 4.1 | 0.041 | 2e+11 | 2e+11 | 4.745e-05 | 0.1 | 0.2 | 0 of 3 |"
    assert spent in section(text, "What was spent")
    assert "0.406 (0.392 to 0.421): saved at equal quality" in section(text, "Verdicts")


def test_memory_is_that_of_the_largest_run():
    one = record()
    first = replace(one.arms[1].runs[0], memory=replace(one.arms[1].runs[0].memory, indices=900))
    text = page(with_arms(one, one.arms[0], replace(one.arms[1], runs=(first, *one.arms[1].runs[1:]))))
    assert "| RigL | 1.00 kB | 900 B |" in section(text, "Memory")


def test_unknown_joules_are_a_sentence():
    text = page(record())
    assert f"Joules are unknown, because {NO_COUNTER}." in section(text, "Energy")
    assert "- RigL, joules: unknown, as said above." in section(text, "Verdicts")
    assert f"(1) unknown, because {NO_COUNTER}" in section(text, "Verdicts")
    assert f"Energy is unknown, because {NO_COUNTER}." in section(text, "How it was measured")
    assert not any(cell.strip() in ("", "0 J", "None", "nan") for cell in text.split("|")[1:-1] if "\n" not in cell)


def test_joules_of_some_runs_only_are_unknown_for_the_arm():
    one = record(joules=True)
    some = arm("RigL", (2.0, 2.0, 2.0), (4.0, 4.1, 4.2), method="rigl", joules=(180.0, None, 180.0))
    energy = section(page(with_arms(one, one.arms[0], some)), "Energy")
    assert "| RigL | unknown (1) | unknown (1) | unknown (1) | unknown (1) |" in energy
    assert f"- (1) unknown, because {NO_COUNTER}" in energy


def test_scores_that_are_not_finite():
    some = arm("RigL", (2.0, None, 2.0), (4.0, 4.1, 4.2), method="rigl")
    text = page(with_arms(record(), record().arms[0], some))
    assert "(1) unknown, because a score was not finite" in section(text, "Verdicts")
    all_unknown = page(with_arms(record(), replace(some, name="dense", method=None), some))
    assert "unknown, because a score of the reference was not finite" in section(all_unknown, "As good as the reference")


def test_how_it_was_measured():
    gpu = replace(record().machine, device="cuda:0", gpu="A GPU", gpu_uuid="GPU-1", driver="580.1", power_limit_w=700.0)
    warm = [
        replace(one, runs=tuple(replace(run, temperature_before_c=40.0, temperature_after_c=60.0) for run in one.runs))
        for one in record(joules=True).arms
    ]
    one = replace(record(joules=True), machine=gpu, arms=tuple(warm), notes=("A note.", "Another."))
    text = section(page(one), "How it was measured")
    for part in (
        "`tasks:chars`", "lower is better", "is 0.02", "seeds 0, 1 and 2", "A CPU (v4)", "torch 2.13.0", "commit unknown",
        "A GPU, UUID GPU-1, driver 580.1, power limit 700 W", "NVML energy counter: resolution 0.001 J, period 0.1 s",
        "At rest before the runs: 30 s, 900 J, 30 W.", "began at 40 to 40 and ended at 60 to 60 degrees",
        "- A note.\n- Another.",
    ):  # fmt: skip
        assert part in text, part


# ---- two beside each other ---------------------------------------------------------------------------------------------


def rows(a, b):
    return {(row[0], row[1]): row[2:] for row in beside.arms(judged(a), judged(b))}


def test_ratios_of_the_arms_that_both_have():
    a, b = record(joules=True), record()
    slower = arm("RigL", (2.11, 2.12, 2.13), (8.2, 8.2, 8.2), method="rigl", flops=2e11)
    found = rows(a, with_arms(b, b.arms[0], slower, replace(slower, name="SET")))
    assert {name for name, _ in found} == {"dense", "RigL"}
    assert found["RigL", "seconds"][:3] == ["4.1", "8.2", "2"]
    assert found["RigL", "bits per character"][2] == "+0.1"
    assert found["RigL", "joules"][:3] == ["180", f"unknown, because {NO_COUNTER}", "unknown, because one of the two is"]
    assert found["RigL", "FLOPs"][3:] == ["0.2, saved at equal quality", "0.2, saved with a quality loss"]
    assert found["dense", "seconds"][3:] == ["itself", "itself"]


def test_scores_of_other_tasks_are_not_subtracted():
    other = replace(record(), entry="tasks:digits")
    assert rows(record(), other)["RigL", "bits per character"][2] == "another task"
    assert "different tasks, tasks:chars and tasks:digits" in beside.text(judged(record()), judged(other), ("a", "b"))


def test_what_differs_is_listed_and_nothing_else():
    a = record()
    b = replace(
        a, machine=replace(a.machine, threads=2), versions={**a.versions, "torch": "2.14"},
        metric=replace(a.metric, tolerance=0.1), config={"repeats": 3, "model": {"width": 64}},
    )  # fmt: skip
    assert beside.settings(a, a) == []
    assert beside.settings(a, b) == [
        ["metric.tolerance", "0.02", "0.1"],
        ["machine.threads", "1", "2"],
        ["version.torch", "2.13.0", "2.14"],
        ["config.model.width", "not given", "64"],
    ]


def test_arms_of_one_alone_are_named():
    a = record()
    b = with_arms(a, a.arms[0], replace(a.arms[1], name="SET"))
    said = beside.page(judged(a), judged(b), ("a.json", "b.json"))
    assert "Only a.json has RigL. Only b.json has SET." in said
    assert said.startswith("# a.json and b.json\n")


# ---- tables and figures ------------------------------------------------------------------------------------------------


def test_tables():
    head, lines = (
        ["arm", "J"],
        [["a|b", "unknown, because x"], ["c", "1"], ["d", "unknown, because y"], ["e", "unknown, because x"]],
    )
    assert table.markdown(head, lines).splitlines() == [
        "| arm | J |", "|---|---|", "| a\\|b | unknown (1) |", "| c | 1 |", "| d | unknown (2) |", "| e | unknown (1) |", "",
        "- (1) unknown, because x", "- (2) unknown, because y",
    ]  # fmt: skip
    assert table.terminal(head, lines).splitlines() == [
        "arm  J", "a|b  unknown (1)", "c    1", "d    unknown (2)", "e    unknown (1)",
        "(1) unknown, because x", "(2) unknown, because y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Interval(0.42, 0.4, 0.44, 3), "0.420 (0.400 to 0.440)"),
        (Interval(0.42, 0.2, 0.64, 3), "0.42 (0.20 to 0.64)"),
        (Interval(0.997, 0.9945, 0.9995, 3), "0.9970 (0.9945 to 0.9995)"),
        (Interval(557.0, 545.0, 569.0, 3), "557 (545 to 569)"),
        (Interval(28762e6, 16169e6, 41356e6, 3), "2.9e+10 (1.6e+10 to 4.1e+10)"),
        (Interval(1234567.0, 1234500.0, 1234634.0, 3), "1.234567e+06 (1.234500e+06 to 1.234634e+06)"),
        (Interval(2e-6, 1e-6, 3e-6, 3), "2.0e-06 (1.0e-06 to 3.0e-06)"),
        (Interval(0.2, 0.2, 0.2, 3), "0.2"),
        (Interval(0.2, 0.2 - 1e-12, 0.2 + 1e-12, 3), "0.2"),
        (Interval(0.2, None, None, 1), "0.2 (one repeat)"),
    ],
)
def test_intervals_in_words(one, words):
    """Two digits of the half width: what is below 1 does not read as 1."""
    assert figures.interval(one) == words


def test_other_words():
    assert figures.unknown("it rains.") == "unknown, because it rains"
    assert figures.unknown(None) == "unknown, because no reason was recorded"
    assert figures.measured(None, "W") == "unknown W"
    assert [figures.listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
