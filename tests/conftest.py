"""The device kinds that every kernel test runs on: CPU, emulated CUDA kernels and a GPU, each at each instruction set.

A CPU's AVX-512 kernels run in instructions of AVX2 where it has no others.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import zipfile
from dataclasses import replace
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from cases import DTYPES, SAME_CODE, TENSOR_CORES, name_of
from sampling import pairwise

from sparse_ext.ops import BACKENDS, OPS
from sparse_ext.ops.auto import POLICY
from sparse_ext.ops.boundary import launch

ROOT = Path(__file__).parent.parent

POLICY.table = {}  # layout="auto" chooses alike on every machine, whatever was measured there

# In CI the same examples every time; elsewhere new ones, of which hypothesis remembers those that failed.
hypothesis.settings.register_profile("ours", deadline=None, max_examples=25, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("ours")

# What several folders share. A layout and methods from outside: what runs over LAYOUTS or METHODS runs over these, too.
sys.path += [str(ROOT / "tests" / folder) for folder in ("outside", "train", "fuzz")]
for module in ("ell", "momentum", "thinning"):
    importlib.import_module(module)

CPU_DTYPES = tuple(dtype for dtype in DTYPES if dtype != torch.float16)
ISAS = ("baseline", "v3", "v4", "v4_bf16")
KINDS = {**{f"cpu-{isa}": CPU_DTYPES for isa in ISAS}, "cpu-v4_bf16": (torch.bfloat16,)}
for cuda in ("emulated", "cuda"):
    KINDS |= {f"{cuda}-sm_80": DTYPES, f"{cuda}-sm_90a": (torch.bfloat16, torch.float16)}


HAS_GPU = "cuda" in BACKENDS and torch.cuda.is_available()
HERE = {kind: dtypes for kind, dtypes in KINDS.items() if HAS_GPU or not kind.startswith("cuda")}


def pytest_report_header():
    """A third of all cases would be skipped one by one."""
    return None if HAS_GPU else "device kinds: without cuda, as this build or machine has none"


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc):
    """`device`: every kind; with `dtype`: every kind with each dtype that it has kernels for.

    What is not possible, or would run the same code again, or is not sampled, is left out here: making tests takes pytest long.
    """
    if {"device", "dtype"} <= set(metafunc.fixturenames):
        pairs = [(kind, dtype) for kind, dtypes in HERE.items() for dtype in dtypes]
        metafunc.parametrize(("device", "dtype"), pairs, indirect=["device"], ids=[f"{k}-{name_of(d)}" for k, d in pairs])
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", HERE, indirect=True)
    yield
    test = metafunc.definition
    calls = [c for c in metafunc._calls if is_possible(test, c.params) and not runs_the_same_code(test, c.params)]
    assert calls or not metafunc._calls, f"{test.nodeid}: none of the cases is possible"
    if not chosen_by_name(metafunc.config):
        marks = [[mark.name for mark in call.marks] for call in calls]  # -m may leave out what has some
        calls = sampled(metafunc.config, calls, [(operator_of(test, c.params), *m) for c, m in zip(calls, marks, strict=True)])
    metafunc._calls = calls


def pytest_addoption(parser):
    parser.addoption("--all-cases", action="store_true", help="also those cases that pairwise sampling leaves out")
    parser.addoption("--operator", help="only the tests of this operator; '-': only those of none")


@pytest.hookimpl(trylast=True)  # of what -k has left: else it would take away the only case of a pair
def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("operator")
    kept = [item for item in items if wanted in (None, operator_of(item, parameters_of(item)) or "-")]
    if chosen_by_name(config):
        kept = sampled(config, kept, [(i.path, i.originalname, operator_of(i, parameters_of(i))) for i in kept])
    config.hook.pytest_deselected(items=list(set(items) - set(kept)))
    items[:] = kept


def pytest_collection_finish():
    """What was loaded and collected stays to the end: the garbage collector would look through it again and again."""
    gc.collect()
    gc.freeze()


def chosen_by_name(config):
    """Whether -k or an id chooses among the cases: from among these is then sampled."""
    return bool(config.option.keyword) or any("[" in argument for argument in config.args)


def sampled(config, cases, groups):
    """Those of the cases in which every two values of parameters still meet, of each group by itself."""
    if config.getoption("all_cases"):
        return cases
    members = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    kept = (numbers[i] for numbers in members.values() for i in pairwise([parameters_of(cases[n]) for n in numbers]))
    return [cases[number] for number in sorted(kept)]


def parameters_of(case):
    """Of a test, or of a call that becomes one."""
    return getattr(getattr(case, "callspec", case), "params", {})


def operator_of(test, params):
    """The operator that a test is about: its parameter `op`, its module's OPERATOR, or the one named by its file."""
    stem = test.path.stem.removeprefix("test_")
    named = getattr(test.module, "OPERATOR", stem if stem in OPS else None)
    return params.get("op", named)


def is_possible(test, params):
    """What the marks `only` of the test say of this case: its parameters, and the kind and instruction set of its device."""
    case = SimpleNamespace(**params)
    case.kind, _, case.isa = getattr(case, "device", "").partition("-")
    return all(mark.args[1](case) for mark in test.iter_markers("only"))


def runs_the_same_code(test, params):
    """Whether the operator's code on this kind of device is that of a kind that runs it anyway."""
    op = operator_of(test, params)
    kind, _, isa = params.get("device", "").partition("-")
    if op in TENSOR_CORES and kind in ("emulated", "cuda") and params.get("dtype", torch.float32).itemsize > 2:
        return True  # and is refused there
    return isa in SAME_CODE.get(op, ())


@pytest.fixture
def device(request, monkeypatch):
    """The torch device of a kind, with its kernels in place; skips where this machine or build lacks them."""
    kind, _, isa = request.param.partition("-")
    if kind == "emulated":
        monkeypatch.setitem(BACKENDS, "cpu", emulated_backend())
    elif kind == "cpu" and isa.startswith("v4") and not has_isa(isa):
        monkeypatch.setitem(BACKENDS, "cpu", replace(BACKENDS["cpu"], module=emulated_module().cpu))
    kernels = BACKENDS["cuda" if kind == "cuda" else "cpu"].module
    before = kernels.isa()
    if not kernels.use_isa(isa):
        pytest.skip(f"this device or build has no {isa} kernels")
    if kind == "cuda":  # torch's own products, with which ours are compared, round operands or partial sums by default
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False)
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    kernels.use_isa(before)


@pytest.fixture
def kind(request):
    """cpu, emulated or cuda: which one `device` stands for."""
    return request.node.callspec.params["device"].partition("-")[0]


def has_isa(isa):
    """Whether the package's own CPU kernels run at this instruction set."""
    kernels = BACKENDS["cpu"].module
    before = kernels.isa()
    found = kernels.use_isa(isa)
    kernels.use_isa(before)
    return found


def emulated_module():
    """_C_emulated: the CUDA launchers compiled for the host (tests/emulation), and AVX-512's CPU kernels for AVX2."""
    module = _load_emulated()
    if module is None:
        pytest.skip(
            "no emulated CUDA kernels: build with -DSPARSE_EXT_EMULATION=ON, or set SPARSE_EXT_EMULATED to _C_emulated*.so"
        )
    return module


def emulated_backend():
    """The emulated CUDA launchers, taking host pointers."""
    return launch.Backend(emulated_module().cuda, lambda tensor: (0, 0), frozenset(DTYPES))


@pytest.fixture
def emulated(monkeypatch):
    """Emulated CUDA kernels in the CPU's place: their launchers."""
    monkeypatch.setitem(BACKENDS, "cpu", emulated_backend())
    return BACKENDS["cpu"].module


@pytest.fixture
def emulated_file():
    """Where _C_emulated lies."""
    return emulated_module().__file__


@cache
def _load_emulated():
    """_C_emulated from $SPARSE_EXT_EMULATED (then it must load), else from a build folder; None where there is none."""
    if named := os.environ.get("SPARSE_EXT_EMULATED"):
        found = [Path(named)]
    else:
        found = sorted(
            path for folder in ("build*", "build*/*", "sparse_ext") for path in ROOT.glob(f"{folder}/_C_emulated*.so")
        )
    if not found:
        return None
    loader = ExtensionFileLoader("_C_emulated", str(found[0]))
    module = module_from_spec(spec_from_loader("_C_emulated", loader))
    loader.exec_module(module)
    sys.modules["_C_emulated"] = module
    return module


@pytest.fixture(scope="session")
def wheel():
    path = os.environ.get("SPARSE_EXT_WHEEL")
    if not path:
        pytest.skip("SPARSE_EXT_WHEEL names no wheel")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="session")
def binary(request, tmp_path_factory):
    """The compiled module: the wheel's where one is given, otherwise the installed one."""
    if not os.environ.get("SPARSE_EXT_WHEEL"):
        return Path(launch._C.__file__)
    archive = request.getfixturevalue("wheel")
    (name,) = [name for name in archive.namelist() if name.startswith("sparse_ext/_C.") and name.endswith(".so")]
    return Path(archive.extract(name, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(autouse=True)
def same_start():
    """The same random numbers for every test, and one thread: tiny parallel regions crawl where the cores are shared.

    New tensors are NaN, or the largest integer: what nobody wrote shows.
    """
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
