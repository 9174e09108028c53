"""AVX-512 code stays in its namespace: the v3 and v4 objects export no weak symbol that another object could be given.

The linker keeps one copy of a weak function (an inline of a header, a std:: template). Were it the v4 object's, every CPU would
run AVX-512 instructions.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CMAKE = (ROOT / "CMakeLists.txt").read_text()
ISAS = re.findall(r"^\s*add_cpu_kernels\((v\w+) ", CMAKE, re.M)


def kernels(isa):
    """The kernels that CMakeLists.txt names for the instruction set."""
    lists = ("CPU_PRODUCTS",) if isa == "v4_bf16" else ("CPU_PRODUCTS", "CPU_KERNELS")
    sources = "".join(re.search(rf"set\({name} ([^)]*)\)", CMAKE).group(1) for name in lists)
    return re.findall(r"csrc/cpu/(\w+/\w+)\.cpp", sources)


def compilation(kernel, isa):
    """How the latest build compiled the kernel: its entry in CMake's compile_commands.json."""
    builds = sorted(ROOT.glob("build/*/compile_commands.json"), key=lambda path: path.stat().st_mtime)
    entries = json.loads(builds[-1].read_text()) if builds else []
    found = [entry for entry in entries if entry["output"].endswith(f"spx_cpu_{isa}.dir/csrc/cpu/{kernel}.cpp.o")]
    if not found or shutil.which("nm") is None:
        pytest.skip("needs nm and a build in build/ on x86-64")
    return found[0]


def foreign_weak_symbols(target, isa):
    """The weak symbols of an object that do not belong to the instruction set's namespace."""
    symbols = subprocess.run(["nm", "-C", target], capture_output=True, text=True, check=True).stdout
    assert f" spx::cpu::{isa}::" in symbols
    weak = re.findall(r"^[0-9a-f ]+ [WwVvu] (.+)$", symbols, re.M)
    return [name for name in weak if f"spx::cpu::{isa}::" not in name]


def test_cmake_names_instruction_sets_and_kernels():
    assert ISAS == ["v3", "v4", "v4_bf16"]
    assert {"csr/spmm", "nm24/gemm"} <= set(kernels("v4_bf16"))
    assert {"csr/spmm", "nm24/gemm", "nm24/pack"} <= set(kernels("v4"))


@pytest.mark.parametrize(("isa", "kernel"), [(isa, kernel) for isa in ISAS for kernel in kernels(isa)])
def test_no_weak_symbol_leaves_the_namespace(isa, kernel):
    entry = compilation(kernel, isa)
    assert not foreign_weak_symbols(Path(entry["directory"], entry["output"]), isa)


def test_a_leak_is_seen(tmp_path):
    entry, source, target = compilation("csr/spmm", "v4"), tmp_path / "leak.cpp", tmp_path / "leak.o"
    source.write_text(
        "#include <vector>\n"
        "namespace spx { template <class T> __attribute__((noinline)) T twice(T x) { return x + x; } }\n"
        "namespace spx::cpu::SPX_ISA { template <class T> __attribute__((noinline)) T own(T x) { return x * x; }\n"
        "float f(float x, std::vector<float>& v) { v.push_back(x); return twice(x) + own(x); } }\n"
    )
    *command, _, _, _, _ = shlex.split(entry["command"])  # but for -o and -c
    subprocess.run([*command, "-o", target, "-c", source], check=True)
    leaked = foreign_weak_symbols(target, "v4")
    assert any("spx::twice" in name for name in leaked)
    assert any("std::vector" in name for name in leaked)
    assert not any("own" in name for name in leaked)
