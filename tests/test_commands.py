"""`python -m sparse_ext`: what it prints alone, and its commands."""

import re
import subprocess
import sys

import pytest

COMMANDS = ("calibrate", "compare", "estimate", "report")


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "sparse_ext", *arguments], capture_output=True, text=True)


def test_alone_it_prints_the_configuration():
    done = run()
    assert done.returncode == 0
    for name in ("sparse_ext", "torch", "CPU kernels", "CUDA kernels", "driver", "CUDA available"):
        assert re.search(f"^{name} ", done.stdout, re.M), done.stdout


def test_help_and_an_unknown_command_list_the_commands():
    shown, wrong = run("--help"), run("compute")
    assert (shown.returncode, wrong.returncode) == (0, 1)
    assert tuple(re.findall(r"^  (\w+) +\w", shown.stdout, re.M)) == COMMANDS
    assert wrong.stderr == f"{shown.stdout}\nexpected one of these commands, got 'compute'\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name):
    assert run(name, "--help").stdout.startswith(f"usage: python -m sparse_ext {name} ")
