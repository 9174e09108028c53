"""A record survives its JSON; a file that holds none is refused with the place where it does not fit."""

import json

import pytest
from records import record

from sparse_ext.report import codec


@pytest.mark.parametrize("joules", [False, True])
def test_a_record_survives_its_json(tmp_path, joules):
    one = record(joules=joules)
    assert codec.read(codec.write(one, tmp_path / "deep" / "report.json")) == one
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_a_number_that_json_does_not_know_is_no_report(tmp_path):
    one = record()
    object.__setattr__(one.arms[0].runs[0], "score", float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        codec.write(one, tmp_path / "report.json")


def test_nor_is_one_that_python_would_read(tmp_path):
    path = codec.write(record(), tmp_path / "report.json")
    path.write_text(path.read_text().replace('"tolerance": 0.02', '"tolerance": NaN'))
    with pytest.raises(ValueError, match=r"report\.json: expected a report's JSON, got NaN, which JSON does not have"):
        codec.read(path)


def test_nor_is_a_number_beyond_all_that_a_computer_has(tmp_path):
    path = codec.write(record(), tmp_path / "report.json")
    path.write_text(path.read_text().replace('"tolerance": 0.02', '"tolerance": 1e999'))
    with pytest.raises(ValueError, match=r"\.metric\.tolerance: expected a finite number"):
        codec.read(path)


CHANGES = [
    (lambda d: d.update(format=9), "expected a report of format 1, got 9"),
    (lambda d: d.pop("title"), "expected 'title', got none"),
    (lambda d: d.update(colour=1), "got 'colour' as well"),
    (lambda d: d["metric"].update(tolerance="0.1"), r"\.metric\.tolerance: expected int or float, got str"),
    (lambda d: d["metric"].update(tolerance=10**400), r"\.metric\.tolerance: expected a finite number"),
    (lambda d: d["arms"][1]["runs"][2].update(steps=1.5), r"\.arms\[1\]\.runs\[2\]\.steps: expected int, got float"),
    (lambda d: d["arms"][0]["runs"][0].update(steps=True), r"\.steps: expected int, got bool"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_what_does_not_fit_is_named(tmp_path, change, sentence):
    path = codec.write(record(), tmp_path / "report.json")
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=sentence):
        codec.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"report\.json: expected a report"):
        codec.read(path)
