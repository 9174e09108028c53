"""The reports in the documentation are what their records say."""

from pathlib import Path

import pytest

from sparse_ext.report import codec, markdown
from sparse_ext.report.verdict import judged

REPORTS = Path(__file__).parents[2] / "docs" / "reports"
FIRST = {
    "chars-short": "At equal seconds dense is better: ",
    "lorenz96": "At equal seconds RigL 98.5 % is better than every dense rival: ",
}


def test_each_has_a_first_line_here():
    assert sorted(FIRST) == sorted(path.name for path in REPORTS.iterdir())


@pytest.mark.parametrize("name", FIRST)
def test_pages_say_what_the_record_says(name):
    folder = REPORTS / name
    record = codec.read(folder / "report.json")
    first = judged(record).headline[0]
    assert first.startswith(FIRST[name])
    assert (folder / "report.md").read_text() == markdown.page(record)
    assert first.partition(":")[0] in (folder / "report.html").read_text()
