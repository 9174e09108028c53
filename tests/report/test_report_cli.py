"""`python -m sparse_ext report`, and the folder without the rest of the package."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from records import record

import sparse_ext
from sparse_ext.report import cli, codec
from sparse_ext.report.verdict import judged


@pytest.fixture
def written(tmp_path):
    return codec.write(record(), tmp_path / "a.json")


@cache
def texts():
    """The pages that this record has."""
    one = judged(record())
    return {name: text for name, page in cli.PAGES.items() if (text := page(one)) is not None}


def test_pages_lie_beside_the_json(written, capsys):
    cli.command([str(written)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == judged(record()).headline[0]
    assert {path.name for path in written.parent.iterdir()} == {"a.json", *texts()}
    for name, text in texts().items():
        assert (written.parent / name).read_text() == text
        assert str(written.parent / name) in shown


def test_or_in_a_folder_of_their_own(written, tmp_path):
    cli.command([str(written), "--out", str(tmp_path / "deep" / "pages")])
    assert {path.name for path in (tmp_path / "deep" / "pages").iterdir()} == set(texts())
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "deep"}


def test_two_are_printed_beside_each_other(written, tmp_path, capsys):
    other = codec.write(replace(record(), title="Another"), tmp_path / "b.json")
    cli.command([str(written), str(other)])
    assert "a.json" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}
    cli.command([str(written), str(other), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "beside.md").read_text().startswith("# a.json and b.json\n")


def test_files_of_the_same_name_have_their_folders_named(written, tmp_path, capsys):
    other = codec.write(replace(record(), config={}), tmp_path / "other" / "a.json")
    cli.command([str(written), str(other)])
    assert str(other) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(format=9), "expected a report of format 1, got 9"),
        (lambda d: d["arms"][1]["runs"].pop(), r"a.json: arm 'RigL': expected the seeds"),
    ],
)
def test_what_is_no_report_is_refused(written, change, sentence):
    data = json.loads(written.read_text())
    change(data)
    written.write_text(json.dumps(data))
    with pytest.raises(SystemExit, match=sentence):
        cli.command([str(written)])
    assert [path.name for path in written.parent.iterdir()] == ["a.json"]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match="No such file"):
        cli.command([str(tmp_path / "none.json")])


def test_the_folder_needs_nothing_else(written, tmp_path):
    """Neither the rest of the package, nor torch, nor numpy: the standard library alone."""
    shutil.copytree(Path(sparse_ext.__file__).parent / "report", tmp_path / "taken" / "report")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from report import cli, schema; cli.command(sys.argv[2:])"
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "taken"), str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert str(written.parent / "report.md") in done.stdout
    assert "report.html was not written: expected jinja2, got none; run `pip install 'sparse_ext[report]'`" in done.stderr
