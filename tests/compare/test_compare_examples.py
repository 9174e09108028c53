"""Committed configs fit their tasks, and the documentation's fits its own."""

import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from tiny import FakeMeter

from sparse_ext.compare import ARMS, Config, compare
from sparse_ext.compare.config import config_of, contenders_of, quick
from sparse_ext.compare.task import load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples" / "compare").glob("*.toml"))
DOCUMENT = (ROOT / "docs" / "compare.md").read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_fit(path):
    pytest.importorskip("sklearn")
    for config in (config_of(path), quick(config_of(path))):
        contenders = contenders_of(config, load(config.task, config.arguments))
        assert {"equal seconds", "narrower", "low rank"} <= {one.KIND for one in contenders.values()}


def test_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (config,), (code,) = (re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT, re.M | re.S) for kind in ("toml", "python"))
    (tmp_path / "my_task.py").write_text(code)
    (tmp_path / "config.toml").write_text(config)
    record = compare(quick(config_of("config.toml")), folder=tmp_path / "out", meter=FakeMeter())
    assert [arm.name for arm in record.arms] == ["dense", "RigL", "narrower", "low rank"]
    assert set(re.findall(r"^\| `([a-z ]+)` \|", DOCUMENT, re.M)) == set(ARMS)


def test_the_documentation_lists_every_key():
    table = DOCUMENT.partition("| key | default |")[2].partition("\n\n")[0]
    shown = {"title", "task", "steps", "tolerance", "arm", *re.findall(r"^\| (\w+) \|", table, re.M)}
    assert shown | {"trial"} == {one.name for one in fields(Config)}
