"""Environment variables with a wrong value: a sentence that names the variable, what it says and what it may say."""

import importlib
import runpy

import pytest
from test_package import ROOT

from sparse_ext.ops import auto
from sparse_ext.ops.boundary import environment


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SPARSE_EXT_DEBUG", "false", "0 or 1"),
        ("SPARSE_EXT_DEBUG", "2", "0 or 1"),
        ("SPARSE_EXT_CUDA_ISA", "sm_75", "sm_80 or sm_90a"),
    ],
)
def test_a_wrong_value_stops_the_import(name, value, expected, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name}: expected {expected}, got '{value}'; or unset it"):
        importlib.reload(environment)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [("SPARSE_EXT_DEBUG", "", "0"), ("SPARSE_EXT_DEBUG", "1", "1"), ("SPARSE_EXT_CUDA_ISA", "sm_80", "sm_80")],
)
def test_right_values(name, value, found, monkeypatch):
    monkeypatch.setenv(name, value)
    assert environment.chosen(name) == found


def test_every_variable_that_is_checked_is_read_somewhere():
    sources = [
        path.read_text()
        for folder in ("sparse_ext", "csrc")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".cu")
    ]
    for name in environment.CHOICES:
        assert sum(f'("{name}")' in text for text in sources) == 1, name


@pytest.mark.parametrize("what", ["no file", "a folder", "another file"])
def test_a_table_that_the_environment_names_must_be_one(what, tmp_path):
    path = {"no file": tmp_path / "none.json", "a folder": tmp_path, "another file": tmp_path / "table.json"}[what]
    if what == "another file":
        path.write_text("[1]")
    with pytest.warns(UserWarning, match=f"environment variable {auto.OWN}={path}: expected a table as .* writes it, got"):
        assert auto.load(path, auto.OWN) == {}


def test_a_build_for_cuda_perhaps(monkeypatch):
    pytest.importorskip("pybind11")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    wants_cuda = runpy.run_path(str(ROOT / "setup.py"))["wants_cuda"]
    for value, found in (("", "auto"), ("on", "on")):
        monkeypatch.setenv("SPARSE_EXT_CUDA", value)
        assert wants_cuda() == found
    monkeypatch.setenv("SPARSE_EXT_CUDA", "OFF")
    with pytest.raises(SystemExit, match="environment variable SPARSE_EXT_CUDA: expected auto, on or off, got 'OFF'"):
        wants_cuda()
