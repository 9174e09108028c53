"""The device kinds that every kernel test runs on: CPU, emulated CUDA kernels and a GPU, each at each instruction set.

A CPU's AVX-512 kernels run in instructions of AVX2 where it has no others.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import hypothesis
import pytest
import torch
from cases import DTYPES, ONE_ISA, TENSOR_CORES, name_of

from sparse_ext.ops import BACKENDS
from sparse_ext.ops.boundary import launch

ROOT = Path(__file__).parent.parent

# In CI the same examples every time; elsewhere new ones, of which hypothesis remembers those that failed.
hypothesis.settings.register_profile("ours", deadline=None, max_examples=25, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("ours")

# What several folders share. A layout and a method from outside: what runs over LAYOUTS or METHODS runs over these, too.
sys.path += [str(ROOT / "tests" / folder) for folder in ("outside", "train", "fuzz")]
for module in ("ell", "momentum"):
    importlib.import_module(module)

CPU_DTYPES = tuple(dtype for dtype in DTYPES if dtype != torch.float16)
ISAS = ("baseline", "v3", "v4", "v4_bf16")
KINDS = {**{f"cpu-{isa}": CPU_DTYPES for isa in ISAS}, "cpu-v4_bf16": (torch.bfloat16,)}
for cuda in ("emulated", "cuda"):
    KINDS |= {f"{cuda}-sm_80": DTYPES}
    KINDS |= {f"{cuda}-{isa}": (torch.bfloat16, torch.float16) for isa in ("sm_90a", "sm_90a_shared")}
# The operators that have kernels of their own for an instruction set.
OWN = {"sm_90a": ("csr_sddmm", "nm24_gemm"), "sm_90a_shared": ("nm24_gemm",)}


def pytest_generate_tests(metafunc):
    """`device`: every kind; with `dtype`: every kind with each dtype that it has kernels for."""
    if {"device", "dtype"} <= set(metafunc.fixturenames):
        pairs = [(kind, dtype) for kind, dtypes in KINDS.items() for dtype in dtypes]
        metafunc.parametrize(("device", "dtype"), pairs, indirect=["device"], ids=[f"{k}-{name_of(d)}" for k, d in pairs])
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", KINDS, indirect=True)


def pytest_collection_modifyitems(items):
    """Operators with one code for several kinds run on one of them; a file about one operator is named after it."""

    def repeats(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        kind, op = params.get("device", ""), params.get("op")
        op = op or item.path.stem.removeprefix("test_")
        if op in TENSOR_CORES and kind.startswith(("emulated", "cuda")) and params.get("dtype", torch.float32).itemsize > 2:
            return True
        if (isa := kind.partition("-")[2]) in OWN:
            return op not in OWN[isa]
        return op in ONE_ISA and kind in ("cpu-v3", "cpu-v4", "cpu-v4_bf16")

    items[:] = [item for item in items if not repeats(item)]


@pytest.fixture
def device(request, monkeypatch):
    """The torch device of a kind, with its kernels in place; skips where this machine or build lacks it."""
    kind, _, isa = request.param.partition("-")
    if kind == "emulated":
        monkeypatch.setitem(BACKENDS, "cpu", emulated_backend())
    elif kind == "cpu" and isa.startswith("v4") and not has_isa(isa):
        monkeypatch.setitem(BACKENDS, "cpu", replace(BACKENDS["cpu"], module=emulated_module().cpu))
    elif kind == "cuda":
        if "cuda" not in BACKENDS:
            pytest.skip("this build of sparse_ext has no CUDA kernels")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
    kernels = BACKENDS["cuda" if kind == "cuda" else "cpu"].module
    before = kernels.isa()
    if not kernels.use_isa(isa):
        pytest.skip(f"this device or build has no {isa} kernels")
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


@pytest.fixture(autouse=True)
def same_start():
    """The same random numbers for every test, and one thread: tiny parallel regions crawl where the cores are shared."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
