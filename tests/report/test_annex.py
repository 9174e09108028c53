"""annex_xi.md: each point with its figure and how it is known; what is unknown says why."""

import re
from dataclasses import replace

import pytest
from records import NO_COUNTER, record, with_arms

from sparse_ext.report.exports import annex_xi


def rows(text, arm):
    """{what: (point, figure, how)} of an arm's section. What stands below the table is put in its place."""
    section = text.split(f"\n## {arm}\n")[1].split("Each of the ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| (")]
    below = dict(re.findall(r"^- (\(\d\)) (.*)$", section, re.M))
    return {what: (point, below.get(figure.removeprefix("unknown "), figure), how) for point, what, figure, how in cells}


def test_the_points_of_a_sparse_arm():
    """Runs of 4.0, 4.1 and 4.2 s, with 180 J each: 5e-5 kWh. The idle machine would have used 54 J."""
    found = rows(annex_xi.page(record(joules=True)), "RigL")
    assert found == {
        "Floating-point operations": ("(d)", "2e+11", "counted as they were executed"),
        "Floating-point operations, planned": ("(d)", "2e+11", "computed from the plan"),
        "Training time": (
            "(d)", "4.1 s",
            "clock; of it updates of the pattern 0.041 s, evaluation 0.205 s; the warm-up is not in it",
        ),
        "Hardware-days": ("(d)", "4.745e-05", "training time times 1 x A CPU"),
        "Peak memory": ("(d)", "8.50 kB", "of a training step, the largest of all runs"),
        "Training": ("(d)", "100 steps, 3200 samples, float32, rigl, layout auto, sparsity 0.9", "configuration"),
        "Energy": (
            "(e)", "180 J (5e-05 kWh)",
            "counted; NVML energy counter; covers: GPU; moves every 0.1 s; resolution 0.001 J; evaluation included",
        ),
        "Energy above idle": ("(e)", "126 J", "without what the idle machine would have used in that time"),
    }  # fmt: skip


@pytest.mark.parametrize("arm", ["dense", "RigL"])
def test_unknown_energy_says_why_and_is_not_estimated(arm):
    text = annex_xi.page(record())
    point, figure, how = rows(text, arm)["Energy"]
    assert (point, figure) == ("(e)", f"unknown, because {NO_COUNTER}")
    assert how.startswith("not estimated here")
    assert "Energy above idle" not in rows(text, arm)
    assert rows(text, arm)["Training time"][1] in ("10.1 s", "4.1 s")


def test_energy_without_an_idle_baseline():
    """Gross is known, net is not: the reason is that of the figure which lacks."""
    one = record(joules=True)
    arm = one.arms[0]
    runs = tuple(
        replace(run, energy=replace(run.energy, net_j=None, why="the idle machine was not measured")) for run in arm.runs
    )
    found = rows(annex_xi.page(with_arms(one, replace(arm, runs=runs))), "dense")
    assert found["Energy"][1] == "500 J (0.0001389 kWh)"
    assert found["Energy above idle"][1] == "unknown, because the idle machine was not measured"


def test_an_estimate_is_said_to_be_one():
    one = record(joules=True)
    estimated = replace(one, sensor=replace(one.sensor, estimated=True))
    assert rows(annex_xi.page(estimated), "dense")["Energy"][2].startswith(
        "estimated: integrated or modelled, not counted; NVML"
    )


def test_every_run_is_listed():
    text = annex_xi.page(record(joules=True))
    assert (
        "| 0 | 100 | 3200 | 4 | 2e+11 | 180 |\n| 1 | 100 | 3200 | 4.1 | 2e+11 | 180 |\n| 2 | 100 | 3200 | 4.2 | 2e+11 | 180 |"
        in text
    )


def test_hardware():
    one = record()
    text = annex_xi.page(one)
    assert "| Devices that trained | 1 x A CPU |" in text
    assert "GPU" not in text
    gpu = replace(one.machine, device="cuda:0", devices=2, gpu="A GPU", driver="580.1", power_limit_w=700.0, memory_bytes=None)
    text = annex_xi.page(replace(one, machine=gpu))
    for line in ("Devices that trained | 2 x A GPU", "Driver | 580.1", "Power limit | 700 W", "Memory | unknown (1)"):
        assert f"| {line} |" in text
    assert "- (1) unknown, because the machine does not tell" in text
    assert "| Power limit | unknown (1) |" in annex_xi.page(replace(one, machine=replace(gpu, power_limit_w=None)))


def test_versions_that_are_unknown_are_left_out():
    assert "Software: python 3.11.2, torch 2.13.0, sparse_ext 0.1.0." in annex_xi.page(record())


def test_an_arm_without_runs_has_no_figures():
    one = record()
    text = annex_xi.page(with_arms(one, replace(one.arms[0], runs=())))
    assert text.endswith("No run was recorded.\n")


def test_it_says_what_it_is_not():
    text = " ".join(annex_xi.page(record()).split())
    for sentence in (
        "Annex XI, Section 1, point 2",
        "It does not say that a model is one of general purpose, nor that these points are all that is asked, nor that they",
        "no search for hyper-parameters, no earlier attempt",
    ):
        assert sentence in text
