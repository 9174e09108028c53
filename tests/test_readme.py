"""The README tells the truth: its examples run, and its table is the one that its checked-in results give."""

import json
import re
from pathlib import Path
from statistics import geometric_mean, mean, stdev

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number, capsys):
    example = EXAMPLES[number].replace("1000", "30").replace("update_interval=100", "update_interval=10")
    exec(compile(example, "README.md", "exec"), {})
    assert bool(capsys.readouterr().out.strip()) == ("print(" in example)


def test_table_is_that_of_its_rows():
    found = re.search(r"^<!-- table: (bench/results/\S+\.jsonl) .*?-->\n(.*?)^<!-- end of table -->", README, re.M | re.S)
    if found is None:
        pytest.skip("the README shows no table yet")
    from bench.report import load, table

    assert found.group(2).strip() == table(load(ROOT / found.group(1))).strip()


def test_accuracies_are_those_of_their_rows():
    scores = {}
    for row in map(json.loads, (ROOT / "bench/results/digits-cnn.jsonl").read_text().splitlines()):
        scores.setdefault(row["arm"], []).append(row["score"])
    for arm, of_seeds in scores.items():
        assert f"{mean(of_seeds):.2f} ± {stdev(of_seeds):.2f}" in README, arm


@pytest.mark.parametrize(("isa", "file"), [("AVX2", "conv-avx2.jsonl"), ("AVX-512", "conv-avx512.jsonl")])
def test_convolutions_are_as_fast_as_their_rows(isa, file):
    """Geometric means over the shapes of a class, as columns of the table."""
    found = {}
    for row in map(json.loads, (ROOT / "bench/results" / file).read_text().splitlines()):
        if row["contender"] == "sparse_ext" and row.get("batch") == 16 and (row["threads"], row["dtype"]) == (1, "float32"):
            found.setdefault((row["sparsity"], row["kernel"], row["stride"]), []).append(row["speedup"])
    for zeros in (0.9, 0.95):
        classes = ((3, 1), (1, 1), (3, 2), (1, 2), (7, 2))
        cells = [f"{geometric_mean(found[(zeros, *kind)]):.2f}x" for kind in classes]
        assert " | ".join([f"| {isa}", f"{zeros:.0%}".replace("%", " %"), *cells]) + " |" in README


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"
