"""The installed package: what its binary needs, what importing it does, and what it says about itself.

SPARSE_EXT_WHEEL names a built wheel; its contents and binary are then checked instead of the installed one's (conftest).
SPARSE_EXT_SDIST names an sdist.
"""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sparse_ext as sx
from sparse_ext import config
from sparse_ext.ops.boundary import launch

ROOT = Path(__file__).parent.parent
SYSTEM_LIBRARIES = r"lib(c|m|dl|pthread|rt|gomp|gcc_s)\.so\.\d+|ld-linux.*\.so\.\d+"


def python(code, *args, isolated=False):
    """What the code prints in a fresh interpreter; isolated: the standard library alone."""
    flags = ["-I", "-S"] if isolated else []
    done = subprocess.run([sys.executable, *flags, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def sdist():
    """The files of an sdist, without the folder that holds them."""
    path = os.environ.get("SPARSE_EXT_SDIST")
    if not path:
        pytest.skip("SPARSE_EXT_SDIST names no sdist")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2]: data for name, data in contents(archive).items()}


@pytest.fixture(scope="session")
def committed():
    """What a clean clone holds."""
    done = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return contents(archive)


def contents(archive):
    return {member.name: archive.extractfile(member).read() for member in archive.getmembers() if member.isfile()}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = wheel.namelist()
    assert all(name.startswith(("sparse_ext/", "sparse_ext-")) for name in names)
    assert sum(name.endswith(".so") for name in names) == 1
    assert {
        "sparse_ext/py.typed",
        "sparse_ext/_C.pyi",
        "sparse_ext/ops/crossover.json",
        "sparse_ext/report/schema.json",
    } <= set(names)


def test_sdist_is_a_clean_clone(sdist, committed):
    """What is compiled from one is compiled from the other."""
    added = {name for name in sdist if name in ("PKG-INFO", "setup.cfg") or name.startswith("sparse_ext.egg-info/")}
    left_out = {name for name in committed if name.startswith((".ci/", ".git", ".pre-commit"))}
    assert sdist.keys() - added == committed.keys() - left_out
    assert not [name for name in sdist.keys() - added if sdist[name] != committed[name]]


def test_wheel_holds_the_committed_package(wheel, committed):
    """Of a clean clone and of an sdist, the same: beside the binary, whose sources the sdist has."""
    built = {name: wheel.read(name) for name in wheel.namelist() if re.match(r"sparse_ext/.*[^/]$(?<!\.so)", name)}
    assert built == {name: data for name, data in committed.items() if name.startswith("sparse_ext/")}


def readelf(option, binary):
    if shutil.which("readelf") is None:
        pytest.skip("no readelf on this machine")
    shown = subprocess.run(["readelf", "--wide", option, binary], capture_output=True, text=True, check=True).stdout
    if "libasan" in shown:
        pytest.skip("a sanitized build")
    return shown


def test_binary_needs_system_libraries_only(binary):
    dynamic = readelf("--dynamic", binary)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert "libgomp.so.1" in needed  # torch's own, by the same name
    assert [name for name in needed if not re.fullmatch(SYSTEM_LIBRARIES, name)] == []
    assert not re.search(r"\((RPATH|RUNPATH)\)", dynamic)


def test_wheel_runs_on_the_glibc_of_manylinux_2_28(wheel, binary):
    """Whatever the glibc that it was linked with: tools/older_glibc.py."""
    versions = re.findall(r"GLIBC_([\d.]+)", readelf("--version-info", binary))
    assert versions
    assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 28)


def test_binary_loads_without_torch(binary):
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_C', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.cpu.isa(), module.random_u32(1, 2), 'torch' in sys.modules)\n"
    )
    (line,) = python(code, binary, isolated=True)
    isa, number, has_torch = line.split()
    assert isa in config.ISAS
    assert int(number) == launch._C.random_u32(1, 2)
    assert has_torch == "False"


@pytest.mark.parametrize(
    ("asked", "used"),
    [(None, "sm_90a"), ("sm_90a", "sm_90a"), ("sm_80", "sm_80"), ("sm_75", "sm_90a")],
)
def test_cuda_kernels_are_chosen_by_the_environment(asked, used, emulated_file, monkeypatch):
    """The emulated device has compute capability 9.0; what a device does not have is not chosen."""
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_C_emulated', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "cuda = module.cuda\n"
        "print(cuda.isa(), cuda.use_isa('sm_75'), cuda.isa(), cuda.use_isa('sm_90a'), cuda.isa())\n"
    )
    monkeypatch.delenv("SPARSE_EXT_CUDA_ISA", raising=False)
    if asked is not None:
        monkeypatch.setenv("SPARSE_EXT_CUDA_ISA", asked)
    assert python(code, emulated_file, isolated=True) == [f"{used} False {used} True sm_90a"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="/proc/self/maps is Linux's")
def test_one_openmp_runtime():
    code = (
        "import sparse_ext, torch\n"
        "torch.set_num_threads(2)\n"
        "sparse_ext.SparseLinear(64, 64)(torch.randn(64, 64)).sum().backward()\n"
        "for line in open('/proc/self/maps'):\n"
        "    if 'libgomp' in line or 'libomp' in line: print(line.split()[-1])\n"
    )
    assert len(set(python(code))) == 1


def imported_from(folder):
    """The last line of what importing the package of this folder says."""
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"  # an installed tree's finder
        "sys.path.insert(0, sys.argv[1])\n"
        "import sparse_ext\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_tree_that_was_never_built_says_so(tmp_path):
    shutil.copytree(
        Path(sx.__file__).parent, tmp_path / "sparse_ext", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    said = imported_from(tmp_path)
    assert said.startswith(
        "ModuleNotFoundError: sparse_ext is not built: expected its compiled kernels, sparse_ext._C for Python 3."
    )
    assert str(tmp_path / "sparse_ext") in said
    assert "`make build`" in said
    assert "`pip install .`" in said


def test_a_binary_that_does_not_load_is_not_called_missing(tmp_path):
    """What the loader says stands."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(sx.__file__).parent, tmp_path / "sparse_ext", ignore=ignored)
    (tmp_path / "sparse_ext" / Path(launch._C.__file__).name).write_bytes(b"no library")
    said = imported_from(tmp_path)
    assert said.startswith("ImportError")
    assert "not built" not in said
    assert "circular" not in said


def test_import_leaves_cuda_and_the_compiler_alone():
    """Loading the compiler takes as long as loading torch does."""
    code = (
        "import sys, torch\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "import sparse_ext\n"
        "print(before == ('torch._dynamo' in sys.modules))\n"
        "print(torch.cuda.is_initialized())\n"
        "print(sparse_ext.cuda_available() in (True, False))\n"
        "print(torch.cuda.is_initialized())\n"
    )
    assert python(code) == ["True", "False", "True", "False"]


def test_setup_is_short_and_torch_free():
    text = (ROOT / "setup.py").read_text()
    assert len(text.splitlines()) <= 60
    imported = {alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert not any(name.partition(".")[0] in ("torch", "sparse_ext") for name in imported)


# What users may rely on. A name that goes, or a new one, is a decision, and a line in the changelog.
PUBLIC = """
    ACDC CHTs CHTss ESTDGM EnergyMeter FST GMP GraNet MEST METHODS RigL SAT SET SNFS SRSTE SRigL SSTE SparseConv1d
    SparseConv2d SparseLinear Sparsifier Static Together TopKAST __version__ count_flops cuda_available densify_ estimate
    functional layer_densities param_groups register_layer register_layout register_method show_config sparsify_ summary
    utils
"""


def test_public_names():
    assert sorted(sx.__all__) == sorted(PUBLIC.split())
    house = {"functional", "methods", "nn", "ops", "train"}
    roof = {"calibrate", "compare", "config", "entry", "forecast", "hf", "machine", "memory", "timing"}
    rooms = house | roof | {"energy", "report"}  # these two stand beside the house
    assert {name for name in vars(sx) if not name.startswith("_")} - rooms <= set(PUBLIC.split())


def test_one_version():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    assert sx.__version__.removesuffix("+source") == declared
    assert launch._C.version == declared


def test_show_config_returns_what_it_prints(capsys):
    in_use = launch._C.cpu.isa()
    shown = sx.show_config()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shown)
    for line, (name, value) in zip(lines, shown.items(), strict=True):
        assert line.startswith(name)
        assert line.endswith("none" if value is None else value)
    assert launch._C.cpu.isa() == in_use  # asking which there are changes nothing
    assert (shown["CUDA available"] == "yes") == sx.cuda_available()


# torch's CUDA, driver, devices, what is said
OBSTACLES = [
    (None, 13000, 1, "is a build without CUDA"),
    ("13.0", 0, 0, "no NVIDIA driver"),
    ("13.0", 12040, 0, r"supports CUDA 12.4, and this build needs CUDA 13.0 \(CUDA 13 binaries need driver >= 580\)"),
    ("13.0", 13000, 0, "no usable device"),
]


@pytest.mark.parametrize(("torch_cuda", "driver", "devices", "sentence"), OBSTACLES)
def test_each_obstacle_is_named(monkeypatch, torch_cuda, driver, devices, sentence):
    fake = SimpleNamespace(driver_version=lambda: driver, runtime_version=lambda: 13000, device_count=lambda: devices)
    monkeypatch.setattr(launch, "_C", SimpleNamespace(cuda=fake))
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    (obstacle,) = config.cuda_obstacles()
    assert re.search(sentence, obstacle)
    assert not sx.cuda_available()


def test_no_obstacle(monkeypatch):
    fake = SimpleNamespace(driver_version=lambda: 13020, runtime_version=lambda: 13000, device_count=lambda: 1)
    monkeypatch.setattr(launch, "_C", SimpleNamespace(cuda=fake))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert sx.cuda_available()


def test_build_without_cuda(monkeypatch):
    monkeypatch.setattr(launch, "_C", SimpleNamespace())
    assert "no CUDA in this build" in config.cuda_obstacles()[0]
