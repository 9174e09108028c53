"""`python -m sparse_ext compare`: its messages, what shows how far it is, and what a machine says of itself."""

import io
import json
import subprocess

import pytest
import torch
from tiny import RIGL, FakeMeter, compared, config

from sparse_ext import machine
from sparse_ext.compare import cli, comparison
from sparse_ext.compare.progress import Lines, shown
from sparse_ext.report import codec


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A config's file, beside which the command runs; without a counter."""
    monkeypatch.setattr(comparison, "default_meter", lambda device: FakeMeter())
    monkeypatch.chdir(tmp_path)
    values = config(steps=480, trial=False, repeats=3)
    tables = values.pop("arm")
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for table in tables:
        choices = table.get("choices", {})
        lines += ["[[arm]]", *(f"{name} = {json.dumps(value)}" for name, value in table.items() if name != "choices")]
        lines += [f"choices.{name} = {value}" for name, value in choices.items()]
    path = tmp_path / "squares.toml"
    path.write_text("\n".join(lines))
    return path


def test_the_command(written, tmp_path, capsys):
    cli.command(["squares.toml", "--quick"])
    record = codec.read(tmp_path / "out" / "compare" / "squares-quick" / "report.json")
    assert (record.config["trial"], record.arms[1].runs[0].steps) == (True, 24)
    told = capsys.readouterr()
    assert told.out.splitlines()[: len(record.headline)] == list(record.headline)
    assert "repeat 1 of 1, RigL: 24 of 24 steps" in told.err


def test_errors_are_sentences(written, capsys):
    with pytest.raises(SystemExit, match="no_such"):
        cli.command(["no_such.toml"])
    written.write_text(written.read_text().replace('"tiny:Squares"', '"tiny"'))
    with pytest.raises(SystemExit, match="task: expected 'module:function', got 'tiny'"):
        cli.command(["squares.toml"])


def test_an_interruption_says_how_to_go_on(written, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "compare", interrupt)
    with pytest.raises(SystemExit, match=r"the same command goes on from the last turn: .*squares"):
        cli.command(["squares.toml"])


# ---- how far it is ------------------------------------------------------------------------------------------------------


def test_lines(tmp_path):
    stream = io.StringIO()
    thin = {"name": "thin", "kind": "low rank", "share": 0.5}
    compared(tmp_path, RIGL, thin, repeats=2, idle_s=0.01, watch=Lines(stream))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["measuring the machine at rest for 0.01 s", "thin: looking for its size"]
    assert lines[-1] == lines[0]
    turns = [line for line in lines if line.startswith("repeat")]
    assert len(turns) == 2 * 3 * 3
    assert turns[0].startswith("repeat 1 of 2, dense: 8 of 24 steps, ")
    assert turns[-1].endswith("mean squared error")


def test_no_bars_where_there_is_no_terminal():
    with shown(io.StringIO()) as watch:
        assert isinstance(watch, Lines)


def test_bars(tmp_path):
    console = pytest.importorskip("rich.console")
    progress = pytest.importorskip("rich.progress")
    from sparse_ext.compare.progress import Bars

    stream = io.StringIO()
    columns = progress.TextColumn("{task.description} {task.completed} {task.fields[score]}")
    with progress.Progress(columns, console=console.Console(file=stream, force_terminal=True, width=100)) as bars:
        compared(tmp_path, repeats=2, watch=Bars(bars))
    assert "repeat 2 of 2" in stream.getvalue()
    assert "RigL 24" in stream.getvalue()


def test_a_name_may_look_like_markup(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    stream = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown(stream) as watch:
        compared(tmp_path, RIGL | {"name": "RigL [/red] [bold]"}, watch=watch)
    assert "RigL [/red] [bold]" in stream.getvalue()


# ---- the machine --------------------------------------------------------------------------------------------------------


def test_the_machine():
    found = machine.machine(torch.device("cpu"))
    assert (found.device, found.devices, found.gpu, found.threads) == ("cpu", 1, None, torch.get_num_threads())
    assert found.cores >= 1
    assert found.memory_bytes > 1 << 20


def test_the_commit_is_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine.versions()["commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith(machine.versions()["commit"])
