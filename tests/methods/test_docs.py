"""docs/methods.md and what the README lists: up to date with the registry; their code runs; their arithmetic is right."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_ext as sx
from accuracy.tasks import TASKS

ROOT = Path(__file__).parents[2]
METHODS_MD = (ROOT / "docs" / "methods.md").read_text()


@pytest.fixture(scope="module")
def tool():
    """tools/methods.py."""
    spec = importlib.util.spec_from_file_location("methods_tool", ROOT / "tools" / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_says_what_it_is(tool):
    lacking = [kind.__name__ for kind in tool.built_in().values() if kind.about is None]
    assert not lacking, f"expected an `about` (sparse_ext.methods.About) of {', '.join(lacking)}"
    for kind in tool.built_in().values():
        assert all(kind.about), f"{kind.__name__}.about has an empty field"


def test_tables_are_up_to_date(tool):
    for path, text in tool.documents().items():
        assert path.read_text() == text, f"{path.name} lists other methods, or other results: run `python tools/methods.py`"


def test_how_a_row_is_written(tool):
    assert tool.linked("Hu et al. 2024, https://a.org/1") == "[Hu et al. 2024](https://a.org/1)"
    assert tool.linked("Hu et al. (https://a.org/1)") == "[Hu et al.](https://a.org/1)"
    assert tool.linked("[Hu](https://a.org/1)") == "[Hu](https://a.org/1)"
    assert tool.defaults(sx.FST) == "`decay=6e-05`, `refresh_interval=40`, `dense_tail=0.1667`, `mvue=True`"
    assert tool.written("a <!-- b --> c <!-- end of b --> d", {"b": "e"}) == "a <!-- b -->\ne\n<!-- end of b --> d"
    with pytest.raises(ValueError, match="expected <!-- b --> and <!-- end of b --> in the document"):
        tool.written("nothing", {"b": "e"})


def test_what_was_measured_is_what_the_results_say(tool, tmp_path):
    assert tool.measured("SAT", tmp_path / "none.jsonl") == "Not measured yet."
    results = tmp_path / "accuracy.jsonl"
    columns = {"task": "digits", "task_steps": TASKS["digits"].task.steps, "init": "masked", "budget": None}
    rows = [
        {**columns, "method": "dense", "sparsity": 0.0, "init": "", "budget": 1.0, "seed": 0, "score": 97.5, "flops": 1.0},
        *(
            {**columns, "method": "sat", "sparsity": 0.0, "seed": n, "score": 96.0 + n, "flops": 0.8, "density": 1.0}
            for n in (0, 1)
        ),
        {**columns, "method": "set", "sparsity": 0.9, "seed": 0, "score": 96.0, "flops": 0.1, "density": 0.1},
    ]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head, _, row = tool.measured("SAT", results).splitlines()
    assert head.count("|") == row.count("|")
    assert row == f"| digits | sat | 0.0% | 96.50 ± 0.71 {TASKS['digits'].unit} | 97.50 | 0.800 | 1.000 | - |"


# ---- the diff --------------------------------------------------------------------------------------------------------


def loop(added):
    """The code of the diff with the added lines, or without."""
    (diff,) = re.findall(r"```diff\n(.*?)```", METHODS_MD, re.S)
    lines = diff.splitlines()
    assert {line[:1] for line in lines} <= {" ", "+", ""}  # nothing is removed or changed
    return [line[1:] for line in lines if added or not line.startswith("+")]


@pytest.mark.parametrize("added", [False, True], ids=["dense", "sparse"])
def test_the_diff_of_a_training_loop_runs(added):
    torch.manual_seed(0)
    x = torch.randn(40, 32, 64)
    names = {"torch": torch, "nn": nn, "batches": [(one, one[:, :10].argmax(1)) for one in x]} | ({"sx": sx} if added else {})
    exec("\n".join(loop(added)), names)
    assert names["loss"] < 2.4
    if added:
        assert names["sparsifier"].report().updates == 2
        assert names["sparsifier"].report().density == pytest.approx(0.1, abs=0.001)


def test_the_diff_has_five_added_lines():
    assert len(loop(True)) + 1 - len(loop(False)) == 5 < 100
    assert "these are five added lines" in METHODS_MD


def test_examples_run(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", METHODS_MD, re.S)
    exec(compile(example, "docs/methods.md", "exec"), {})
    table = capsys.readouterr().out
    assert "0.linear1" in table
    assert "whole model" in table


# ---- the shortest method ---------------------------------------------------------------------------------------------


def test_the_shortest_method_is_short_and_trains():
    extending = (ROOT / "docs" / "extending.md").read_text().partition("### The shortest method")[2]
    code = re.search(r"```python\n(.*?)```", extending, re.S)[1]
    assert len([line for line in code.splitlines() if line]) <= 20
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sparse_ext"):
            public = {*importlib.import_module(node.module).__all__, "methods", "train"}
            assert {alias.name for alias in node.names} <= public
    names = {"__name__": __name__}
    try:
        exec(compile(code, "docs/extending.md", "exec"), names)
        kind = sx.METHODS["by-use"]
    finally:
        sx.METHODS.pop("by-use", None)
    torch.manual_seed(0)
    layer = sx.SparseLinear(16, 8, sparsity=0.5)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[::2, :8] = True
    layer.set_matrix_(torch.rand(8, 16) + 1, mask)
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = kind(update_interval=2, drop_fraction=0.2, t_end=1.0, schedule="constant")
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=7)
    nnz = layer.nnz
    for _ in range(6):
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert sparsifier.report().updates == 3
    assert layer.nnz == nnz == 32
    assert layer.mask()[1::2].any()
    assert not layer.mask()[:, 8:].any()  # inputs that no weight reads have the score 0: the others are drawn
    flops = sx.count_flops(model, sparsifier).sparse
    assert flops.training.executed == flops.training.planned == 6 * nnz


# ---- what the text says ------------------------------------------------------------------------------------------------


def test_the_arithmetic_of_the_claims():
    """f = d + (1 - d) / (3 dT): RigL as planned, with an update in every ΔT-th step."""
    model = nn.Sequential(sx.SparseLinear(100, 100, sparsity=0.85))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=100, t_end=10**6), total_steps=1000)
    share = sx.count_flops(model, sparsifier).model.training_share.planned
    assert share == pytest.approx(0.15 + 0.85 / 300)
    assert f"that is {share:.3f}" in METHODS_MD


def test_there_is_a_place_for_what_is_measured():
    assert re.findall("<!-- measured: (.*?) -->", METHODS_MD) == ["dynamic sparse training", "EST-DGM", "SAT"]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", METHODS_MD):
        assert (ROOT / "docs" / target).exists(), target
