"""Where counters are looked for, what of them is added up, and what looking needs."""

import subprocess
import sys

import pytest
from counters import measured, steady

import sparse_ext as sx
from sparse_ext.energy import METERS, EnergyMeter, Unreadable, sources


def test_what_is_looked_for_by_default(monkeypatch, clock):
    """All rows of METERS; those that cannot be read say why."""

    class Nothing:
        def counters(self):
            raise Unreadable("nothing: expected a socket")

    monkeypatch.setattr(sources, "METERS", {"nothing": Nothing})
    assert EnergyMeter(clock=clock).why == "no energy counter can be read here: nothing: expected a socket"
    sources.METERS["replay"] = lambda: steady(clock)
    meter = EnergyMeter(clock=clock)
    assert measured(meter, clock, 10.0).joules == pytest.approx(1000)
    assert meter.notes == ("nothing: expected a socket",)
    assert meter.why is None


def test_this_machine():
    """Whatever it has: a reading, or a reason."""
    assert list(METERS) == ["nvml", "rapl"]
    meter = sx.EnergyMeter()
    with meter.window("w") as window:
        pass
    assert (meter.sensor is None) == (meter.why is not None)
    assert window.reading.seconds > 0
    assert (window.reading.joules is None) == (window.reading.why is not None)


@pytest.mark.parametrize(
    ("scopes", "counted"),
    [
        (["GPU", "package", "DRAM"], ["GPU", "package", "DRAM"]),
        (["platform", "package", "package", "DRAM"], ["platform"]),
        (["module", "package", "DRAM"], ["module"]),
        (["module", "platform", "package"], ["module"]),
        (["GPU", "platform", "package"], ["GPU", "package"]),
        (["package", "wall"], ["package", "wall"]),
    ],
)
def test_nothing_is_counted_twice(clock, scopes, counted):
    meter = EnergyMeter(sources=[steady(clock, scope=scope, name=f"the {scope}") for scope in scopes], clock=clock)
    reading = measured(meter, clock, 10.0)
    assert [part.scope for part in reading.parts] == counted
    assert reading.joules == pytest.approx(1000 * len(counted))
    assert len(meter.notes) == len(scopes) - len(counted)
    assert all(note.startswith("the ") and "is left out" in note for note in meter.notes)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (["nvlm"], ValueError, "expected sources of 'nvml', 'rapl', got 'nvlm'"),
        ([3], TypeError, r"expected sources with counters\(\), got int"),
        ("nvml", TypeError, r"expected a sequence of sources, such as \['nvml'\], got 'nvml'"),
    ],
)
def test_what_is_no_source(given, error, sentence):
    with pytest.raises(error, match=sentence):
        EnergyMeter(sources=given)


def test_importing_it_needs_nothing():
    """Neither torch nor pynvml nor codecarbon, and none of our own."""
    code = (
        "import sys, types, importlib.util as util\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "spec = util.spec_from_file_location('energy', folder / '__init__.py', submodule_search_locations=[str(folder)])\n"
        "sys.modules['energy'] = module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "with module.EnergyMeter().window('w') as window: pass\n"
        "print(window.reading.seconds > 0, [n for n in ('torch', 'numpy', 'codecarbon', 'sparse_ext') if n in sys.modules])\n"
    )
    folder = sys.modules["sparse_ext.energy"].__path__[0]
    done = subprocess.run([sys.executable, "-I", "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
