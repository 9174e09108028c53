"""What nvcc makes of csrc/cuda, without a GPU: every file compiles for every architecture, no kernel spills."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent.parent / "csrc"
KERNELS = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu") if path.stem != "device")
ARCHS = ("sm_80", "sm_90a")
MAX_REGISTERS = 128  # two blocks of 256 threads fit a multiprocessor


def find_nvcc():
    if "CUDA_HOME" in os.environ and "CUDACXX" not in os.environ:
        return shutil.which(Path(os.environ["CUDA_HOME"]) / "bin" / "nvcc")
    return shutil.which(os.environ.get("CUDACXX", "nvcc"))


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    """{(file, arch): {kernel: {"registers", "spilled", "stack"}}}, from what ptxas reports while compiling."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine (set CUDA_HOME or CUDACXX)")
    folder = tmp_path_factory.mktemp("cubin")

    def compile_one(case):
        file, arch = case
        cubin = folder / f"{file}.{arch}.cubin"
        command = [nvcc, "-std=c++17", f"-I{CSRC}", "-cubin", f"-arch={arch}", "-Xptxas=-v", "-o", cubin]
        result = subprocess.run([*command, CSRC / "cuda" / f"{file}.cu"], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return case, parse(result.stderr)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(compile_one, [(file, arch) for file in KERNELS for arch in ARCHS]))


def parse(report):
    kernels = {}
    for name, body in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", report, re.S):
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", body
        ).groups()
        registers = re.search(r"Used (\d+) registers", body).group(1)
        kernels[name] = {"stack": int(stack), "spilled": int(stores) + int(loads), "registers": int(registers)}
    return kernels


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("file", KERNELS)
def test_no_spills(resources, file, arch):
    kernels = resources[file, arch]
    assert kernels, f"ptxas reported no kernel of {file}.cu"
    bad = {name: use for name, use in kernels.items() if use["spilled"] or use["stack"] or use["registers"] > MAX_REGISTERS}
    assert not bad
