"""AVX-512 code stays in its namespace: the v3 and v4 objects export no weak symbol that another object could be given.

The linker keeps one copy of a weak function (an inline of a header, a std:: template). Were it the v4 object's, every CPU would
run AVX-512 instructions.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "csrc"
KERNELS = ("csr/sddmm", "csr/spmm", "nm24/gemm", "nm24/mvue", "nm24/pack")
# What CMake gives every file in a release build.
FLAGS = (
    "-std=gnu++17",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fno-exceptions",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-fopenmp",
)


def isa_flags():
    """{instruction set: its own flags}, as CMakeLists.txt writes them."""
    calls = re.findall(r"^\s*add_cpu_kernels\((v\w+) (.+)\)$", (ROOT / "CMakeLists.txt").read_text(), re.M)
    return {isa: flags.split() for isa, flags in calls}


def foreign_weak_symbols(source, isa, folder):
    """The weak symbols of the compiled source that do not belong to the instruction set's namespace."""
    compiler, nm = shutil.which(os.environ.get("CXX", "c++")), shutil.which("nm")
    if compiler is None or nm is None or os.uname().machine != "x86_64":
        pytest.skip("needs a C++ compiler and nm on x86-64")
    target = folder / f"{source.stem}.{isa}.o"
    defines = [f"-DSPX_ISA={isa}", f"-DSPX_ISA_{isa}"]
    subprocess.run([compiler, *FLAGS, *isa_flags()[isa], *defines, f"-I{CSRC}", "-c", source, "-o", target], check=True)
    symbols = subprocess.run([nm, "-C", target], capture_output=True, text=True, check=True).stdout
    weak = re.findall(r"^[0-9a-f ]+ [WwVvu] (.+)$", symbols, re.M)
    return [name for name in weak if f"spx::cpu::{isa}::" not in name]


def test_cmake_names_the_instruction_sets():
    assert set(isa_flags()) == {"v3", "v4", "v4_bf16"}
    sources = re.search(r"set\(CPU_KERNELS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    assert sorted(sources.split()) == [f"csrc/cpu/{kernel}.cpp" for kernel in KERNELS]


@pytest.mark.parametrize("isa", ["v3", "v4", "v4_bf16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_weak_symbol_leaves_the_namespace(kernel, isa, tmp_path):
    assert not foreign_weak_symbols(CSRC / "cpu" / f"{kernel}.cpp", isa, tmp_path)


def test_a_leak_is_seen(tmp_path):
    source = tmp_path / "leak.cpp"
    source.write_text(
        "#include <vector>\n"
        "namespace spx { template <class T> __attribute__((noinline)) T twice(T x) { return x + x; } }\n"
        "namespace spx::cpu::SPX_ISA { template <class T> __attribute__((noinline)) T own(T x) { return x * x; }\n"
        "float f(float x, std::vector<float>& v) { v.push_back(x); return twice(x) + own(x); } }\n"
    )
    leaked = foreign_weak_symbols(source, "v4", tmp_path)
    assert any("spx::twice" in name for name in leaked)
    assert any("std::vector" in name for name in leaked)
    assert not any("own" in name for name in leaked)
