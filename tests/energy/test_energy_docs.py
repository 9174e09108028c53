"""docs/energy.md: its code runs, as far as it needs nothing that is not installed."""

import re
from pathlib import Path

import pytest

from sparse_ext.energy import METERS, Reading, Sensor

TEXT = (Path(__file__).parents[2] / "docs" / "energy.md").read_text()
EXAMPLES = [code for code in re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S) if not re.search("zeus|carbon", code)]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number):
    exec(compile(EXAMPLES[number], "docs/energy.md", "exec"), {})


def test_all_fields_are_explained():
    fields = {*Reading.__dataclass_fields__, *Sensor.__dataclass_fields__, "mean_w"} - {"name", "sensor"}
    assert not [name for name in fields if f"`{name}`" not in TEXT]
    assert not [name for name in METERS if name not in TEXT.lower()]
