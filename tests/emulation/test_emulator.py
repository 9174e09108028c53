"""The emulator sees what it claims to see: every seeded fault fails loudly, the correct kernel passes."""

import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


def cuda_include():
    """The folder of the CUDA headers, or None."""
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    if nvcc := shutil.which("nvcc"):
        # nvcc may be a wrapper script elsewhere; it says itself where the toolkit is.
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
        roots += [Path(line.split("=", 1)[1].strip()) for line in dry.splitlines() if line.startswith("#$ TOP=")]
        roots.append(Path(nvcc).resolve().parent.parent)
    roots.append(Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13")
    return next((root / "include" for root in roots if (root / "include" / "crt" / "host_defines.h").exists()), None)


@pytest.fixture(scope="module", params=["plain", pytest.param("sanitized", marks=pytest.mark.slow)])
def build(request, tmp_path_factory):
    """build(stem): the program made of stem.cu, the emulator and csrc/cuda/device/device.cu, sanitized in twice the time."""
    include, compiler = cuda_include(), shutil.which("g++")
    if include is None or compiler is None or os.uname().machine != "x86_64":
        pytest.skip("the emulator needs g++ on x86-64 and the CUDA toolkit's headers")
    flags = ["-O1", "-g", "-std=gnu++17", "-Wno-unknown-pragmas"]
    flags += [f"-I{CSRC}", f"-I{HERE}", "-isystem", include]
    if request.param == "sanitized":
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    folder = tmp_path_factory.mktemp("emulator")

    @cache
    def compiled(source):
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *flags, "-x", "c++", "-c", source, "-o", target], check=True)
        return target

    def make(stem):
        emulator = [HERE / f"{name}.cpp" for name in ("emulator", "shared", "tma", "wgmma", "runtime")]
        objects = map(compiled, (HERE / f"{stem}.cu", CSRC / "cuda" / "device" / "device.cu", *emulator))
        subprocess.run([compiler, *flags, *objects, "-o", folder / stem], check=True)
        return folder / stem

    make.sanitized = request.param == "sanitized"
    return make


@pytest.fixture(scope="module")
def faults(build):
    program = build("faults")

    def run(fault, seed=0):
        env = {"SPARSE_EXT_EMULATION_SEED": str(seed), "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run([program, fault], capture_output=True, text=True, env=env)

    run.sanitized = build.sanitized
    return run


@pytest.mark.parametrize("seed", range(4))
def test_correct_kernel_passes(faults, seed):
    result = faults("none", seed)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["ok", "ok"]


SEEN = {
    "no_barrier": ("race on shared memory", "read of unwritten shared memory"),
    "no_second_barrier": ("race on shared memory",),
    "no_warp_barrier": ("race on shared memory", "read of unwritten shared memory"),
    "overrun": ("shared memory overrun: `tile`",),
    "short_dynamic": ("shared memory overrun: `counts`",),
    "unwritten": ("read of unwritten shared memory: `tile[40]`",),
    "divergent_barrier": ("divergent barrier: thread 0 waits in __syncthreads at faults.cu:",),
    "left_before_barrier": ("divergent barrier",),
    "divergent_shuffle": ("divergent barrier",),
    "part_of_a_warp": ("blocks are 1-D, of whole warps",),
    "no_wait": ("read of unwritten shared memory: `tile[",),
    "left_copy": ("a thread ended without waiting for its copies: 1",),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fault", SEEN)
def test_fault_fails_the_launch(faults, fault, seed):
    result = faults(fault, seed)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert any(sentence in first for sentence in SEEN[fault]), first
    assert f"kernel {fault}, grid 3, block 12" in first
    assert second == "ok"  # the next launch is not disturbed


def test_overrun_through_a_raw_pointer(faults):
    result = faults("raw_overrun")
    if faults.sanitized:
        assert result.returncode != 0
        assert "heap-buffer-overflow" in result.stderr
        assert "faults.cu" in result.stderr
    else:
        assert "shared memory overrun: something was written outside of `tile`" in result.stdout


def test_overrun_of_global_memory(faults):
    if not faults.sanitized:
        pytest.skip("global memory is the host's: only ASan sees overruns of it")
    result = faults("global_overrun")
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr


def test_the_same_seed_gives_the_same_run(faults):
    assert faults("no_barrier", 3).stdout == faults("no_barrier", 3).stdout


def test_mma_is_a_plain_product(build):
    program = build("mma")
    for dtype in ("bf16", "f16"):
        result = subprocess.run([program, dtype], capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (0, "ok\n"), result


def test_look_back_sums_what_unfinished_blocks_left(build):
    result = subprocess.run([build("look_back")], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result


HOPPER_SEEN = {
    "none": "ok",
    "wrong_leading": "wrong",
    "no_wait": "more threads arrive at a barrier",
    "overwritten": "wrong",
    "no_finish": "thread 0 ends without waiting for its products",
    "no_fence": "no wgmma_fence since the sums were last touched",
    "more_bytes": "endless wait: thread 0 waits in barrier_wait at hopper.cu:",
    "no_arrival": "endless wait: thread 0 waits in barrier_wait at hopper.cu:",
    "too_many_arrivals": "more threads arrive at a barrier than the 1 that it was made for",
    "still_copying": "a block ends while",
    "unaligned": "a swizzled box begins at a multiple of 1024 bytes",
}


@pytest.fixture(scope="module")
def hopper(build):
    return build("hopper")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fault", HOPPER_SEEN)
def test_copies_and_products_of_hopper(hopper, fault, seed):
    """Each dtype by itself; the first fault leaves nothing behind for the second."""
    env = {"SPARSE_EXT_EMULATION_SEED": str(seed), "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run([hopper, fault], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(HOPPER_SEEN[fault] in line for line in lines), lines


SPARSE_SEEN = {
    "none": "ok",
    "swapped_rows": "wrong",
    "other_selector": "code 0 is not of two ascending positions",
    "illegal_code": "code 15 is not of two ascending positions",
    "touched_codes": "codes were written while a product reads them (",
    "no_fence": "no wgmma_fence since the sums or the codes were last touched",
    "beyond_pattern": "an operand ends behind the 64 bytes of its swizzle pattern",
    "other_column": "wrong",
}


@pytest.fixture(scope="module")
def sparse_wgmma(build):
    return build("sparse_wgmma")


@pytest.mark.parametrize("fault", SPARSE_SEEN)
def test_sparse_products_of_hopper(sparse_wgmma, fault):
    """Each dtype by itself."""
    result = subprocess.run([sparse_wgmma, fault], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(SPARSE_SEEN[fault] in line for line in lines), lines
