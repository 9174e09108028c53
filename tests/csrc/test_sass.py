"""What nvcc made of csrc/cuda, read from the built library without a GPU: no kernel spills, loads are wide.

SPARSE_EXT_WHEEL names a wheel to read; otherwise the installed library is read, if it was built with CUDA kernels.
"""

import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

ROOMS = ("csr", "masked", "nm24", "regrow", "device")
ARCHS = ("sm_80", "sm_90a")
MAX_REGISTERS = 128  # two blocks of 256 threads fit a multiprocessor
# Kernels of which one block fills a multiprocessor, by a part of their name.
MAX_REGISTERS_ALONE = {
    "csr_sddmm_kernel": 168,  # 384 threads
    "csr_sddmm_wgmma_kernel": 168,
    "nm24_gemm_wgmma_kernel": 168,  # on average: the warps that multiply have 232 of them
    "nm24_pack_kernelIdd": 176,  # 42 sums of float64 for the 90 tiles
}

# csr_spmm by its mangled type: {type: (the instructions that its design promises, registers of the small tile)}. Registers are
# those of nvcc 13.0 and a few more, some for split rows and relu; the large tile needs MAX_REGISTERS.
SPMM = {
    "f": ({"LDG.E.128", "STS.128", "LDS.128", "FFMA"}, 124),
    "d": ({"LDG.E.128", "STS.128", "LDS.128", "DFMA"}, 96),
    "NS_4bf16E": ({"LDG.E.128", "STS.64", "LDS.64", "FFMA"}, 124),
    "NS_3f16E": ({"LDG.E.128", "STS.64", "LDS.64", "FFMA"}, 124),
}
# csr_sddmm on CUDA cores by its mangled type. It needs all of its registers.
SDDMM = {
    "f": {"LDG.E.128", "STS.128", "LDS.128", "FFMA"},
    "d": {"LDG.E.128", "STS.128", "LDS.128", "DFMA"},
    "NS_4bf16E": {"LDG.E.64", "STS.128", "LDS.128", "FFMA"},
    "NS_3f16E": {"LDG.E.64", "STS.128", "LDS.128", "FFMA"},
}
# csr_sddmm on tensor cores by its mangled type. It needs MAX_REGISTERS.
SDDMM_MMA = {
    "NS_4bf16E": {"HMMA.16816.F32.BF16", "LDG.E.128", "STS.128", "LDS.128"},
    "NS_3f16E": {"HMMA.16816.F32", "LDG.E.128", "STS.128", "LDS.128"},
}
# On sm_90a products by wgmma, loads by TMA, some of them for both blocks of a cluster, and barriers that suspend who waits.
SDDMM_WGMMA = {
    "NS_4bf16E": {"HGMMA.64x256x16.F32.BF16", "UTMALDG.2D", "UTMALDG.2D.MULTICAST", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "STS.64"},
    "NS_3f16E": {"HGMMA.64x256x16.F32", "UTMALDG.2D", "UTMALDG.2D.MULTICAST", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "STS.64"},
}

# nm24_gemm on sparse tensor cores by its mangled type.
GEMM_MMA = {
    "NS_4bf16E": {"HMMA.SP.16832.F32.BF16", "LDSM.16.M88.4", "LDG.E.128", "STS.128", "STG.E.128"},
    "NS_3f16E": {"HMMA.SP.16832.F32", "LDSM.16.M88.4", "LDG.E.128", "STS.128", "STG.E.128"},
}
# On sm_90a by wgmma, x by TMA for the four blocks of a cluster, the weight by TMA, y turned on its way through shared memory.
_GEMM_WGMMA = {"UTMALDG.2D", "UTMALDG.2D.MULTICAST", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "STSM.16.MT88.4", "LDS.128", "STG.E.128"}
GEMM_WGMMA = {
    "NS_4bf16E": {"HGMMA.SP.64x256x32.F32.BF16", *_GEMM_WGMMA},
    "NS_3f16E": {"HGMMA.SP.64x256x32.F32", *_GEMM_WGMMA},
}

# nm24_mvue by its mangled type: values written a pair of groups at once.
MVUE = {"f": "STG.E.128", "d": "STG.E.128", "NS_4bf16E": "STG.E.64", "NS_3f16E": "STG.E.64"}


def find_cuobjdump():
    """The toolkit's, or that of the wheel nvidia-cuda-cuobjdump."""
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "cuobjdump"
    return shutil.which("cuobjdump") or shutil.which(wheel)


@pytest.fixture(scope="module")
def disassembled(binary):
    """disassembled(what, arch): [(mangled kernel, what cuobjdump prints of it)] of the whole library."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("no cuobjdump on this machine (pip install nvidia-cuda-cuobjdump)")

    def printed(*arguments):  # of a library without kernels it says so, and fails
        return subprocess.run([cuobjdump, *arguments, binary], capture_output=True, text=True).stdout

    built = set(re.findall(r"\.(sm_\w+)\.cubin", printed("-lelf")))

    @cache
    def kernels(what, arch):
        if arch not in built:
            pytest.skip(f"this library has no kernels for {arch} (SPARSE_EXT_CUDA=on builds them)")
        parts = re.split(r"Function (?:: )?(\w+)", printed(what, "-arch", arch))  # text, name, text, name, text
        return list(zip(parts[1::2], parts[2::2], strict=True))

    return kernels


def by_room(kernels):
    """{room: {kernel: value}}, by the namespaces in mangled names; "device" for what several rooms share."""
    found = {room: {} for room in ROOMS}
    for name, value in kernels:
        place = re.match(rf"_ZN3spx4cuda\d+({'|'.join(ROOMS[:-1])})(?=\d)", name)
        found[place.group(1) if place else "device"][name] = value
    return found


@pytest.fixture(scope="module")
def resources(disassembled):
    """resources(room, arch): {kernel: {"registers", "stack", "shared"}}; what spills lies on the stack."""

    def sizes(printed):
        registers, stack, shared, local = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", printed).groups()
        return {"registers": int(registers), "stack": int(stack) + int(local), "shared": int(shared)}

    return lambda room, arch: {name: sizes(text) for name, text in by_room(disassembled("-res-usage", arch))[room].items()}


def most_registers(kernel):
    return next((most for name, most in MAX_REGISTERS_ALONE.items() if name in kernel), MAX_REGISTERS)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("room", ROOMS)
def test_no_spills(resources, room, arch):
    kernels = resources(room, arch)
    assert kernels, f"the library has no kernel of {room}"
    assert not {name: use for name, use in kernels.items() if use["stack"] or use["registers"] > most_registers(name)}


def test_registers_that_warps_give_and_take(resources):
    """setmaxnreg's 40 for 128 threads and 232 for 256 are all that 384 threads begin with: with fewer they wait for ever."""
    kernels = resources("nm24", "sm_90a")
    assert {use["registers"] for name, use in kernels.items() if "wgmma" in name} == {(40 * 128 + 232 * 256) // 384}


@pytest.fixture(scope="module")
def listings(disassembled):
    """listings(room, arch): {kernel: [(address, instruction, operands)]}."""
    line = r"/\*(\w+)\*/ +(?:@!?U?P\w+ )?([A-Z][\w.]*)(.*?);"

    @cache
    def listed(room, arch):
        code = by_room(disassembled("-sass", arch))[room]
        return {name: [(int(at, 16), *rest) for at, *rest in re.findall(line, body)] for name, body in code.items()}

    return listed


@pytest.fixture(scope="module")
def instructions(listings):
    """instructions(room, arch): {kernel: its instructions}."""
    return lambda room, arch: {name: {used for _, used, _ in code} for name, code in listings(room, arch).items()}


def assert_made_of(instructions, kernel, wanted):
    kernels = [used for name, used in instructions.items() if kernel in name]
    assert kernels, f"no kernel {kernel}"
    for used in kernels:
        assert wanted <= used
        assert not {name for name in used if re.match(r"(LDL|STL|ATOM|RED)\b", name)}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", SPMM)
def test_spmm_is_made_of_wide_accesses(instructions, dtype, arch):
    assert_made_of(instructions("csr", arch), f"csr_spmm_kernelI{dtype}", SPMM[dtype][0])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", SDDMM)
def test_sddmm_is_made_of_wide_accesses(instructions, dtype, arch):
    assert_made_of(instructions("csr", arch), f"csr_sddmm_kernelI{dtype}", SDDMM[dtype])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", SDDMM_MMA)
def test_sddmm_runs_on_tensor_cores(instructions, dtype, arch):
    assert_made_of(instructions("csr", arch), f"csr_sddmm_mma_kernelI{dtype}", SDDMM_MMA[dtype])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", GEMM_MMA)
def test_gemm_runs_on_sparse_tensor_cores(instructions, dtype, arch):
    assert_made_of(instructions("nm24", arch), f"nm24_gemm_mma_kernelI{dtype}Lb1E", GEMM_MMA[dtype])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", MVUE)
def test_mvue_writes_pairs_of_groups(instructions, dtype, arch):
    assert_made_of(instructions("nm24", arch), f"nm24_mvue_kernelI{dtype}", {MVUE[dtype]})


@pytest.mark.parametrize("dtype", SDDMM_WGMMA)
def test_sddmm_runs_on_warpgroups(instructions, dtype):
    assert_made_of(instructions("csr", "sm_90a"), f"csr_sddmm_wgmma_kernelI{dtype}", SDDMM_WGMMA[dtype])


@pytest.mark.parametrize("dtype", GEMM_WGMMA)
def test_gemm_runs_on_warpgroups(instructions, dtype):
    assert_made_of(instructions("nm24", "sm_90a"), f"nm24_gemm_wgmma_kernelI{dtype}", GEMM_WGMMA[dtype])


def run_once_more(code):
    """The instructions in the order in which they run, the loop of the products twice."""
    for i, (at, used, rest) in enumerate(code):
        target = int(rest.strip(), 16) if used == "BRA" and re.fullmatch(r" *0x\w+ *", rest) else at
        begin = next(j for j, (place, _, _) in enumerate(code) if place >= target)
        if begin < i and any(inner.startswith("HGMMA") for _, inner, _ in code[begin:i]):
            return code[: i + 1] + code[begin:]
    return code


def written(used, rest):
    """The registers that an instruction writes, as far as its first operand says it."""
    first = re.match(r" *R(\d+)(?:,|\b)", rest)
    if not first or re.match(r"ST|RED|SYNCS|BRA", used):
        return set()
    width = 4 if ".128" in used else 2 if re.search(r"\.64|WIDE|CS2R", used) else 1
    return set(range(int(first[1]), int(first[1]) + width))


def touched_while_read(code):
    """Instructions that write the codes of a wgmma that was started before, and is not known to be done."""
    groups, found = [set()], []  # of started products, by the wait that follows them
    for at, used, rest in run_once_more(code):
        if used.startswith("HGMMA.SP"):
            groups[-1].add(int(re.findall(r"\bR(\d+)\b", rest)[-1]))  # the codes
        elif used.startswith("WARPGROUP.DEPBAR"):
            still = int(rest.split("0x")[1], 16)
            groups = [*groups[len(groups) - still :], set()]
        elif bad := written(used, rest) & set().union(*groups):
            found.append((hex(at), used, bad))
    return found


@pytest.mark.parametrize("dtype", GEMM_WGMMA)
def test_codes_stay_while_products_read_them(listings, dtype):
    (code,) = (code for name, code in listings("nm24", "sm_90a").items() if f"nm24_gemm_wgmma_kernelI{dtype}" in name)
    assert not touched_while_read(code)
    first = next(i for i, (_, used, _) in enumerate(code) if used.startswith("HGMMA"))
    codes = re.findall(r"\bR(\d+)\b", code[first][2])[-1]
    assert touched_while_read([*code[: first + 1], (0, "LDG.E", f" R{codes}, [R2.64] "), *code[first + 1 :]])


@pytest.mark.parametrize("room", ["csr", "nm24"])
def test_boxes_begin_at_multiples_of_1024_bytes(resources, room):
    """Swizzling goes by addresses: dynamic shared memory lies behind the static, which is padded for it."""
    shared = [use["shared"] for name, use in resources(room, "sm_90a").items() if "wgmma" in name]
    assert shared
    assert not [size for size in shared if size % 1024]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", SPMM)
def test_spmm_registers(resources, dtype, arch):
    registers = [use["registers"] for name, use in resources("csr", arch).items() if f"csr_spmm_kernelI{dtype}Li4E" in name]
    assert len(registers) == 1
    assert registers[0] <= SPMM[dtype][1]
