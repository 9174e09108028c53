"""zeus' own reader of stages (Perseus) reads ours, and plans with it."""

import ast
import importlib.util
import sys
from importlib import metadata

import pytest

from sparse_ext.report.exports import stages
from sparse_ext.report.record import Arm
from sparse_ext.report.run import Stage

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("zeus")
pytest.importorskip("lowtime")

MHZ = range(600, 1801, 200)


def stage(number, instruction, mhz, cycles):
    """Slower clocks take longer, and power grows with their cube, as in a chip whose voltage follows them."""
    seconds = cycles * 1800 / mhz
    return Stage(number, instruction, mhz, seconds, seconds * (60 + 340 * (mhz / 1800) ** 3))


@pytest.fixture
def reader(monkeypatch):
    """zeus ships it as an example: a file of its wheel, of no package."""
    matplotlib.use("Agg")
    # lowtime 0.3.0 still imports what matplotlib 3.9 removed.
    monkeypatch.setattr("matplotlib.cm.get_cmap", matplotlib.colormaps.get_cmap, raising=False)
    (path,) = [one for one in metadata.files("zeus") if one.match("pipeline_frequency_optimizer/run_optimization.py")]
    spec = importlib.util.spec_from_file_location("run_optimization", path.locate())
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_optimization", module)
    spec.loader.exec_module(module)
    return module


def test_it_slows_the_sparser_stage_down(reader, tmp_path):
    """Stage 1 has two fifths of the work: at full speed it waits, which the planner turns into slower clocks."""
    work = {(0, "forward"): 0.02, (0, "backward"): 0.04, (1, "forward"): 0.008, (1, "backward"): 0.016}
    found = tuple(stage(*key, mhz, cycles) for key, cycles in work.items() for mhz in MHZ)
    (tmp_path / "stages.csv").write_text(stages.rows(Arm("sparse", "sparse", "uneven", "float32", (), "rigl", stages=found)))
    reader.main(reader.Args(str(tmp_path / "stages.csv"), tmp_path / "out", num_mbs=3, num_stages=2, plot_interval=10**9))
    fastest = max((tmp_path / "out").glob("freqs_pipeline_*.py"))
    plan = ast.literal_eval("\n".join(line for line in fastest.read_text().splitlines() if line[0] != "#"))
    of_stage = [[mhz for _, mhz in instructions] for instructions in plan]
    assert all(set(mhz) <= set(MHZ) for mhz in of_stage)
    assert sum(of_stage[1]) < sum(of_stage[0])
    assert min(of_stage[1]) < 1200
