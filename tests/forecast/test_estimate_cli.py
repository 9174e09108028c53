"""`python -m sparse_ext estimate`, the table it prints, and docs/estimate.md."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.forecast.cli import command
from sparse_ext.forecast.models import MODELS
from sparse_ext.ops import auto

ROOT = Path(__file__).parents[2]
SMALL = {
    "gpt": "--width 32 --depth 3 --heads 4 --vocabulary 50 --context 8 --batch 2",
    "vit": "--width 32 --depth 3 --heads 4 --image 32 --batch 2",
}
CHOICES = "--sparsity 0.8 --layout csr --method rigl --ranks 4 --optimizer sgd-momentum"


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_is_estimated(name, capsys):
    command([name, *SMALL[name].split(), *CHOICES.split()])
    out = capsys.readouterr().out
    assert re.search(r"^blocks\.\*\.up \(3\) +128 x 32 ", out, re.M)
    assert "of one of 4 ranks" in out
    assert "as RigL plans 10000 steps, with sgd-momentum" in out
    assert "Sparse takes" in out.splitlines()[-1]


def test_json_has_all_figures(capsys):
    command(["gpt", *SMALL["gpt"].split(), "--sparsity", "0.8", "--layout", "csr", "--dtype", "bfloat16", "--json"])
    found = json.loads(capsys.readouterr().out)
    with torch.device("meta"):
        model, batch = MODELS["gpt"](32, 3, 4, 50, 8, 2).build()
    expected = sx.estimate(model.to(torch.bfloat16), 0.8, "csr", inputs=batch)
    assert found == json.loads(json.dumps(asdict(expected)))


MINE = """
from torch import nn

WIDTH = 30

def alone():
    return nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))

def with_batch():
    import torch
    return nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(2, 3, 9, 9)

def mine():
    return "a model"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    (tmp_path / "my_models.py").write_text(MINE)


def test_a_model_of_ones_own(mine, capsys):
    command(["my_models:alone", "--sparsity", "0.5", "--tokens", "7", "--json"])
    assert [row["tokens"] for row in json.loads(capsys.readouterr().out)["layers"]] == [7, 7]
    command(["my_models:with_batch", "--sparsity", "0.5", "--json"])
    assert [row["tokens"] for row in json.loads(capsys.readouterr().out)["layers"]] == [2 * 7 * 7]


WRONG = [
    (["nothing"], "model: expected gpt, vit or 'module:function', got 'nothing'"),
    (["my_models:none"], "model: expected a function of my_models (alone, with_batch, mine), got 'none'"),
    (["my_models:WIDTH"], "model: expected a function of my_models (alone, with_batch, mine), got 'WIDTH'"),
    (["gpt", "--heads", "7"], "expected a width that the heads divide, got width 768 and 7 heads"),
    (["gpt", "--heads", "0"], "expected heads to be a whole number of at least 1, got 0"),
    (["vit", "--batch", "-1"], "expected batch to be a whole number of at least 1, got -1"),
    (["my_models:mine"], "expected my_models:mine to return a model, or (model, batch), got str"),
    (["my_models:alone", "--sparsity", "7", "--tokens", "1"], "expected sparsity in"),
    (["my_models:alone", "--sparsity", "0.5"], "expected tokens or inputs, got neither"),
    (
        ["my_models:alone", "--tokens", "1", "--device", "cuda:99"],
        "expected a device of this machine, or one of 'cpu baseline'",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_what_is_wrong_is_said_in_a_sentence(mine, arguments, sentence):
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        command(arguments)


def test_it_is_a_command_of_the_package():
    done = subprocess.run([sys.executable, "-m", "sparse_ext", "estimate", "gpt", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--vocabulary" in done.stdout


def test_the_table():
    """Two layers that are alike share a line, which has their sums."""
    model = nn.ModuleDict({f"part{i}": nn.Linear(100, 100, bias=False) for i in range(2)} | {"norm": nn.LayerNorm(10)})
    lines = str(sx.estimate(model, 0.9, "csr", optimizer="sgd", tokens=1000, distribution="uniform")).splitlines()
    assert " ".join(lines[0].split()) == "layer shape density layout bytes dense sparse FLOPs dense sparse seconds"
    # Dense 2 * (40 + 40) kB; sparse 2 * (4 + 4 kB, 12 bytes of indices for each of 1000, 3 * 404 bytes, 1250 bytes of bits).
    assert " ".join(lines[1].split()) == "part* (2) 100 x 100 10.00% csr 160 kB 44.9 kB 120 MFLOP 12.0 MFLOP unknown"
    assert " ".join(lines[2].split()) == "other parameters 100.00% dense 160 B 160 B 0 FLOP 0 FLOP 1.00"
    assert lines[3] == "bytes and FLOPs of one process; FLOPs of a training step, as Static plans 10000 steps, with sgd"
    totals = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines[5:18]}
    assert totals["weights"] == "0.101"
    assert totals["training step"] == "0.100"
    assert totals["indices"] == "26.4 kB"


def test_what_is_documented_is_so(capsys, monkeypatch):
    text = (ROOT / "docs" / "estimate.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    exec(compile(example, "docs/estimate.md", "exec"), {})
    assert "Sparse takes" in capsys.readouterr().out
    (line,) = re.findall(r"^python -m sparse_ext estimate (.*)$", text, re.M)
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.M | re.S)
    monkeypatch.setattr(auto.POLICY, "table", auto.load(auto.SHIPPED))
    command(shlex.split(line))
    assert capsys.readouterr().out == shown
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / "docs" / target).exists(), target
