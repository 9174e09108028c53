"""The bench itself: cases, rows, break-even and comparison, on shapes that take no time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import TOLERANCE

from bench import bounds
from bench.bounds import bound_s, terms
from bench.cases import PATTERNS, Case, Shape
from bench.compare import IDENTITY, compare
from bench.contenders import CONTENDERS, PRODUCTS, Operands
from bench.report import break_even, load, table
from bench.run import measure

ROOT = Path(__file__).parent.parent
CASE = Case(Shape(96, 64, 40), 0.9, "uniform", torch.float32, "cpu")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sparsity", [0.5, 0.98])
def test_masks_have_the_exact_count(pattern, sparsity):
    mask = Case(Shape(96, 64, 40), sparsity, pattern, torch.float32, "cpu").mask()
    assert int(mask.sum()) == round((1 - sparsity) * 96 * 64)
    counts = mask.sum(1).float()
    assert (counts.max() > 3 * counts.median()) == (pattern == "skewed" and sparsity == 0.98)


def test_contenders_compute_the_same():
    operands = Operands(CASE)
    functions = {name: CONTENDERS[name](operands) for name in ("dense", "sparse_ext", "auto", "torch.sparse")}
    for product in ("forward", "input gradient", "weight gradient"):
        expected = functions["dense"][product]()
        for name in ("sparse_ext", "auto", "torch.sparse"):
            got = functions[name][product]()
            if product == "weight gradient":
                got, expected_here = (got.values() if name == "torch.sparse" else got), expected[operands.mask]
            else:
                expected_here = expected
            torch.testing.assert_close(got, expected_here, msg=lambda m, name=name: f"{name}: {m}", **TOLERANCE[torch.float32])


def test_rows_of_a_case():
    rows = list(measure(CASE, PRODUCTS, ["dense", "sparse_ext", "auto"], budget_s=0.0))
    assert {(row["case"], row["contender"]) for row in rows} == {
        (product, name)
        for product in PRODUCTS
        for name in ("dense", "sparse_ext", "auto")
        if (product, name) not in (("regrow", "auto"), ("pack", "auto"), ("pack", "sparse_ext"))
    }
    for row in rows:
        assert row["p20_s"] <= row["median_s"] <= row["p80_s"]
        assert row["rounds"] >= 7
        assert (row["speedup"] == 1.0) or row["contender"] != "dense"
        assert json.loads(json.dumps(row)) == row
        if row["case"] == "step" and row["contender"] == "sparse_ext":
            assert row["useful_tflops"] == pytest.approx(3 * 2 * 40 * 0.1 * 96 * 64 / row["median_s"] / 1e12)
            assert row["share_of_bound"] is None  # the bound is a GPU's
    text = table([{**row, "threads": 1} for row in rows])
    assert text.count("\n") == 3  # heading, rule, two contenders


def test_bound_is_that_of_the_reference():
    """kernels.md B.1: 90 %, 4096 x 4096, 8192 tokens, float32: 410 us of multiply-adds, 1643 us of shared memory."""
    case = Case(Shape(4096, 4096, 8192), 0.9, "uniform", torch.float32, "cuda")
    assert terms(case, "forward")["multiply-adds"] == pytest.approx(410e-6, rel=0.01)
    assert bound_s(case, "forward") == pytest.approx(1643e-6, rel=0.01)


@pytest.mark.parametrize(
    ("speedups", "sparsity"),
    [
        ({0.5: 0.5, 0.75: 1.0}, 0.75),
        ({0.5: 0.5, 0.75: 0.8, 0.9375: 1.25}, 0.875),  # half way between the densities 1/4 and 1/16, in powers of 2
        ({0.5: 1.1, 0.9: 4.0}, None),
        ({0.5: 0.1, 0.9: 0.9}, None),
    ],
)
def test_break_even(speedups, sparsity):
    assert break_even(speedups) == (sparsity if sparsity is None else pytest.approx(sparsity))


def test_compare_finds_what_became_slower():
    def row(sparsity, speedup, contender="sparse_ext"):
        return {"case": "step", "in_features": 8, "sparsity": sparsity, "contender": contender, "speedup": speedup}

    old = [row(0.8, 2.0), row(0.9, 4.0), row(0.95, 8.0), row(0.8, 1.0, "dense")]
    new = [row(0.8, 1.92), row(0.9, 3.6), row(0.98, 1.0), row(0.8, 0.1, "dense")]
    lines, failures = compare(old, new, 0.05)
    assert len(lines) == 2
    assert len(failures) == 1
    assert "4.00x -> 3.60x" in failures[0]


def test_rows_of_a_gpu_tell_every_layer_apart():
    """Two convolutions may have equal sizes as matrices; of what was measured twice, the later commit is reported."""
    rows = [row for row in load(ROOT / "bench" / "results" / "gpu-h200.jsonl") if row["case"] != "overhead"]
    assert {row["gpu"] for row in rows} == {"NVIDIA H200"}
    later = {}
    for row in rows:
        later.setdefault(tuple(row.get(name) for name in IDENTITY), []).append(row["commit"])
    assert all(len(set(commits)) == len(commits) for commits in later.values())
    cases = {key for key in later if key[0] == "forward" and key[-1] == "sparse_ext"}
    series = [line for line in table(rows, "forward").splitlines() if "| sparse_ext |" in line]
    assert sum(line.count("x |") for line in series) == len(cases)
    lines, failures = compare(rows, rows, 0.05)
    assert lines
    assert not failures


def test_2_4_is_measured_at_half_of_the_zeros():
    case = replace(CASE, sparsity=0.5)
    rows = list(measure(case, PRODUCTS, ["dense", "2:4", "2:4 mvue"], budget_s=0.0))
    found = {name: {row["case"] for row in rows if row["contender"] == name} for name in ("2:4", "2:4 mvue")}
    assert found["2:4"] == {"forward", "input gradient", "step", "pack"}
    assert found["2:4 mvue"] == {"weight gradient", "step"}
    assert not CONTENDERS["2:4"](Operands(replace(CASE, sparsity=0.9)))


def test_bounds_in_the_docs_are_those_of_the_bench():
    text = (ROOT / "docs" / "gpu-kernels.md").read_text()
    found = re.search(r"^<!-- table: .*?-->\n(.*?)^<!-- end of table -->", text, re.M | re.S)
    assert found.group(1).strip() == bounds.table()
