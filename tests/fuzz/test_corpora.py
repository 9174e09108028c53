"""What fuzzing found, once more: every file of the corpora is an input that was refused in no sentence, or computed wrongly."""

from pathlib import Path

import launchers
import loader
import pytest
from choices import Choices

from sparse_ext.ops import OPS
from sparse_ext.ops.boundary import checks

HERE = Path(__file__).parent / "corpus"


def inputs(target):
    return sorted((HERE / target).iterdir())


def of_launchers(path):
    """Decisions after the first: the device is the test's."""
    choices = Choices(path.read_bytes())
    choices.below(256)
    return choices


@pytest.mark.parametrize("path", inputs("loader"), ids=lambda path: path.name)
def test_checkpoints(path):
    assert loader.check(Choices(path.read_bytes())) in ("refused", "loaded")


# The operator decides which kinds of devices have kernels of their own for it (conftest.py).
@pytest.mark.parametrize(
    ("op", "path"), [pytest.param(launchers.op_of(of_launchers(p)), p, id=p.name) for p in inputs("launchers")]
)
def test_operators(op, path, device, monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    assert op == path.name.partition(".")[0], "the file's second byte is the operator's place"
    assert launchers.check(of_launchers(path), device) in ("refused", "agreed")


def test_every_operator_that_launches_is_fuzzed():
    assert set(launchers.LAUNCHED) == {op for op in OPS if not op.startswith(("auto", "follow", "observe"))}
