"""Child processes of tests. They import this sparse_ext and the tests' helpers; one that hangs says where."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import sparse_ext as sx

TESTS = Path(__file__).parent


def run(*commands: Sequence[object], seconds: float = 240) -> None:
    """Runs these scripts with their arguments, side by side; AssertionError with what they wrote unless all end well."""
    folders = [Path(sx.__file__).parent.parent, TESTS, TESTS / "train", TESTS / "outside", os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, map(str, folders)))
    processes = [
        subprocess.Popen([sys.executable, *map(str, command)], env=env, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        written = [process.communicate(timeout=seconds)[1] for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.send_signal(signal.SIGABRT)  # Python then writes the stacks of all threads
        written = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0 for _ in processes], "\n".join(written)


def leave() -> NoReturn:
    """Ends a process that was in a gloo group, without Python's own end: see pytorch/pytorch#179291.

    A thread of gloo's that lets go of a tensor while Python ends aborts the process, or has it wait forever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
