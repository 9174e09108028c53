"""The README tells the truth: its examples run, and its table is the one that its checked-in results give."""

import json
import re
from pathlib import Path
from statistics import mean, stdev

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


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"
