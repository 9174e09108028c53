"""`python -m sparse_ext`: what it prints alone, and its commands."""

import re
import runpy
import sys

import pytest

COMMANDS = ("calibrate", "compare", "estimate", "report")


@pytest.fixture
def run(monkeypatch, capsys):
    """(exit status, what is printed), as in a process of its own."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparse_ext", *arguments])
        try:
            runpy.run_module("sparse_ext", run_name="__main__")
        except SystemExit as ended:
            return ended.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


def test_alone_it_prints_the_configuration(run):
    status, shown = run()
    assert status == 0
    for name in ("sparse_ext", "torch", "CPU kernels", "CUDA kernels", "driver", "CUDA available"):
        assert re.search(f"^{name} ", shown, re.M), shown


def test_help_and_an_unknown_command_list_the_commands(run):
    status, shown = run("--help")
    assert status == 0
    assert tuple(re.findall(r"^  (\w+) +\w", shown, re.M)) == COMMANDS
    assert run("compute") == (f"{shown}\nexpected one of these commands, got 'compute'", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(run, name):
    status, shown = run(name, "--help")
    assert status == 0
    assert shown.startswith(f"usage: python -m sparse_ext {name} ")
