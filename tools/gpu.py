"""Builds, tests, sanitizes and measures on a machine with a GPU; nothing is installed or fetched.

    python tools/gpu.py full|quick [--plan] [--built]

full takes less than 7 minutes on 16 cores, quick less than 3. --plan only prints the steps. --built takes the package as it
lies there, built elsewhere for this Python, where it can be imported.

OUT     folder for build.log, tests.log, kernels.jsonl, memcheck.log, racecheck.log, bench.log, bench.jsonl and summary.txt
PYTHON  interpreter with torch, pybind11 and pytest (default: this one)

Each kernel is tested by a process of its own: one that fails takes no other with it. Kernels that never passed on a GPU come
first. What is missing or runs out of time is recorded, and the rest goes on. Exit status 1: a step failed, or there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PASSED = ROOT / "bench" / "results" / "gpu-kernels.jsonl"  # rows of earlier runs: copy kernels.jsonl there
OUT = Path(os.environ.get("OUT", "out")).resolve()
PYTHON = os.environ.get("PYTHON", sys.executable)
PYTEST = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
BUILD = Path(os.environ.get("SPARSE_EXT_BUILD_DIR", "build/gpu"))
SECONDS = {"full": 400, "quick": 165}  # of a whole run
ISAS = ("sm_80", "sm_90a")
LEAST_SECONDS = 5.0  # with less time left a step is not started
AT_ONCE = 12  # processes that test: they wait for the host more than for the device
# What compute-sanitizer runs, by -k: a process for each part, small cases of one type. On an H200 one process came to 350 tests
# under memcheck in 45 s, and to 200 under racecheck.
SANITIZED = {
    "products": "(csr_spmm or csr_sddmm) and (float32 or bfloat16)",
    "convolutions": "csr_conv2d and float32 and uint16",
    "patterns": "(csr_pack or csr_unpack or csr_from_mask or csr_transpose or masked_select) and float32",
    "2:4": "nm24 and bfloat16",
    "regrow": "regrow and not nm24 and float32",
}


@dataclass(frozen=True)
class Step:
    """A command, the seconds that it may take, and the file that takes what it prints.

    Attributes:
        kernel: (operator, instruction set) that it tests.
        group: steps of one group, neighbours in the plan, run beside each other; "": by itself.
        optional: whether the run may pass without it, where it is refused or has no time.
    """

    name: str
    seconds: int
    log: str
    command: Sequence[str]
    kernel: tuple[str, str] | None = None
    group: str = ""
    optional: bool = False
    environment: dict[str, str] = field(default_factory=dict)


# ---- the plan --------------------------------------------------------------------------------------------------------------


def build_step(card: str | None, built: bool = False) -> Step:
    """For the card of this machine alone, as "9.0"; None: for all.

    Args:
        built: whether a package that can be imported is taken as it is.
    """
    number = (card or "").replace(".", "")
    archs = [f"-DSPARSE_EXT_CUDA_ARCHS={'90a' if number == '90' else number}-real"] if number else []
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    configure = [
        "cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja", "-DSPARSE_EXT_CUDA=on", *archs,
        f"-DSPARSE_EXT_VERSION={version[1]}", f"-DPython_EXECUTABLE={PYTHON}",
    ]  # fmt: skip
    pybind = f'-Dpybind11_DIR="$({PYTHON} -m pybind11 --cmakedir)"'
    install = ["cmake", "--install", str(BUILD), "--prefix", "sparse_ext"]
    look = f"{PYTHON} -m sparse_ext"
    commands = f"{shlex.join(configure)} {pybind} && cmake --build {BUILD} && {shlex.join(install)} && {look}"
    return Step("build", 100, "build.log", ["bash", "-c", f"{look} || {{ {commands}; }}" if built else commands])


def tests_of(operator: str, isa: str, quick: bool) -> list[str]:
    """A pytest command for one operator's kernels of one instruction set."""
    marks = ["-m", "not slow"] if quick else []
    return [*PYTEST, "tests/ops", *marks, "--operator", operator, "-k", f"cuda-{isa}- or cuda-{isa}]"]


def passed_before(rows: Path = PASSED) -> set[tuple[str, str]]:
    """The kernels that have passed on a GPU."""
    lines = rows.read_text().splitlines() if rows.exists() else []
    found = map(json.loads, lines)
    return {(row["operator"], row["isa"]) for row in found if row["passed"] and not row["failed"]}


def kernels(
    same_code: dict[str, tuple[str, ...]], operators: Sequence[str], known: set[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(operator, instruction set) of everything that has code of its own, those first that have not passed yet."""
    found = [(op, isa) for op in operators for isa in ISAS if isa not in same_code.get(op, ())]
    return sorted(found, key=lambda kernel: kernel in known)


def plan(mode: str, units: list[tuple[str, str]], card: str | None = None, built: bool = False) -> list[Step]:
    """The steps of a run, in order."""
    quick = mode == "quick"
    steps = [build_step(card, built)]
    steps += [Step(f"{op} {isa}", 60, "tests.log", tests_of(op, isa, quick), (op, isa), "kernels") for op, isa in units]
    workers = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    rest = [*PYTEST, *workers, "-k", "cuda and not emulated", "-m", "not slow", "--operator", "-"]
    steps.append(Step("layers and training", 60, "tests.log", rest))
    return steps + ([] if quick else sanitizer_steps()) + list(bench_steps(quick))


def sanitizer_steps() -> list[Step]:
    caching = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # torch's allocator would hide overruns
    steps = []
    for tool in ("memcheck", "racecheck"):
        for part, chosen in SANITIZED.items():
            small = f"cuda and (by_hand or agrees_with_its_twin) and not large and {chosen}"
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "86", *PYTEST, "-x", "tests/ops", "-k", small]
            steps.append(Step(f"{tool} {part}", 60, f"{tool}.log", command, None, tool, optional=True, environment=caching))
    return steps


def bench_steps(quick: bool) -> Iterator[Step]:
    portable = {"SPARSE_EXT_CUDA_ISA": "sm_80"}  # contenders of their own have Hopper's kernels
    step = partial(Step, log="bench.log", optional=True, environment=portable)
    common = [PYTHON, "-m", "bench", "run", "--device", "cuda", "--budget", "0.1", "--out", str(OUT / "bench.jsonl")]
    command = [*common, "--suite", "gpu"]
    products = ["--products", "forward", "input gradient", "weight gradient", "step"]
    ours = ["--contenders", "tf32", "sparse_ext", "sm_90a"]  # torch.sparse would take most of the time
    two_four = ["2:4", "2:4 mvue", "2:4 sm_90a", "2:4 sm_90a mvue", "torch 2:4"]
    command_2_4 = [*command, "--dtype", "bfloat16", "--sparsity", "0.5", *products, "pack", "--contenders", *two_four]
    yield step("bench 2:4", 40, command=command_2_4)
    sparsity = ["0.9", "0.98"] if quick else ["0.8", "0.9", "0.95", "0.98"]
    for dtype in ["bfloat16"] if quick else ["bfloat16", "float32"]:
        command_csr = [*command, "--dtype", dtype, "--sparsity", *sparsity, *products, "regrow", *ours]
        yield step(f"bench {dtype}", 60, command=command_csr)
    if not quick:
        command_conv = [*common, "--suite", "gpu conv", "--sparsity", "0.9", *products[:-1], *ours]
        yield step("bench convolutions", 60, command=command_conv)


# ---- a run -------------------------------------------------------------------------------------------------------------------


def counts(printed: str) -> dict[str, int]:
    """How many tests passed, failed and were skipped, from pytest's closing line; an error is a failure."""
    lines = re.findall(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s.*$", printed, re.M)
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1] if lines else ""):
        found["failed" if word.startswith("error") else word] += int(number)
    return found


def verdict(step: Step, status: int | None, printed: str) -> str:
    """ok, FAILED, or why it does not count.

    Args:
        status: None where time ran out, -1 where there was none left, 127: no such program.
    """
    if status == 0 or (status == 5 and step.kernel):  # pytest: no test of this operator and instruction set
        return "ok" if status == 0 else "no test"
    if "device not supported" in printed.lower():
        return "refused by this machine"
    if status == 127:
        return "missing"
    word = {None: "out of time", -1: "no time left"}.get(status, f"FAILED with status {status}")
    return word if step.optional or status not in (None, -1) else f"FAILED: {word}"


class Run:
    """Carries out steps, and writes what they say.

    Attributes:
        failed: whether a step failed that must not.
    """

    def __init__(self, out: Path, seconds: int) -> None:
        self.out, self.end, self.failed = out, time.monotonic() + seconds, False
        out.mkdir(parents=True, exist_ok=True)
        names = ("build.log", "tests.log", "kernels.jsonl", "memcheck.log", "racecheck.log", "bench.log", "bench.jsonl")
        for name in (*names, "summary.txt"):
            (out / name).unlink(missing_ok=True)

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.write("summary.txt", line)

    def write(self, name: str, text: str) -> None:
        with (self.out / name).open("a") as file:
            file.write(text.rstrip("\n") + "\n")

    def step(self, step: Step) -> bool:
        """Whether it went well."""
        begin = time.monotonic()
        seconds, status, printed = min(step.seconds, self.end - begin), -1, ""
        if seconds > LEAST_SECONDS:
            status, printed = execute(step, seconds)
        found = verdict(step, status, printed)
        self.write(step.log, f"==== {step.name}: {found}\n{printed}")
        if step.kernel:
            row = {"operator": step.kernel[0], "isa": step.kernel[1], **counts(printed), "verdict": found, **origin()}
            self.write("kernels.jsonl", json.dumps(row))
        tally = ", ".join(f"{n} {word}" for word, n in counts(printed).items() if n)
        self.say(f"{step.name}: {found} ({time.monotonic() - begin:.0f} s{'; ' + tally if tally else ''})")
        self.failed |= found.startswith("FAILED")
        return not found.startswith("FAILED")


def execute(step: Step, seconds: float) -> tuple[int | None, str]:
    """(exit status, what it printed); None where time ran out, 127 where there is no such program."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | step.environment
    try:
        done = subprocess.run(
            step.command, cwd=ROOT, env=environment, timeout=seconds, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except FileNotFoundError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired as expired:
        printed = expired.stdout or b""
        return None, printed.decode(errors="replace") if isinstance(printed, bytes) else printed
    return done.returncode, done.stdout


def printed_by(*command: str) -> str:
    """What a command prints; "" where it fails."""
    return execute(Step("", 0, "", command), 20)[1].strip() if command else ""


def card() -> tuple[str, str | None]:
    """The GPU's name and compute capability, as "9.0"; None where there is none."""
    status, printed = execute(Step("", 0, "", ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]), 20)
    name, _, capability = printed.splitlines()[0].rpartition(", ") if status == 0 and printed else ("no GPU", "", None)
    return name, capability


@cache
def origin() -> dict[str, str]:
    """Of every row."""
    return {"gpu": card()[0], "commit": printed_by("git", "rev-parse", "--short", "HEAD"), "date": time.strftime("%Y-%m-%d")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=SECONDS)
    parser.add_argument("--plan", action="store_true", help="print the steps, and do nothing")
    parser.add_argument("--built", action="store_true", help="take the package as it lies there, if it can be imported")
    options = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    name, capability = card()
    if options.plan:
        show(plan(options.mode, known_kernels(), capability, options.built))
        return 0
    run = Run(OUT, SECONDS[options.mode])
    run.say(f"{options.mode} on {name}, commit {origin()['commit']}")
    if capability is None or not run.step(build_step(capability, options.built)):
        run.say("result: FAILED, no GPU" if capability is None else "result: FAILED (build)")
        return 1
    _, *steps = plan(options.mode, known_kernels(), capability)
    for _, group in groupby(steps, key=lambda step: step.group or step.name):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(run.step, group))
    run.say(f"result: {'FAILED' if run.failed else 'ok'}")
    return int(run.failed)


def known_kernels() -> list[tuple[str, str]]:
    """Of the package in this tree, which must have been built."""
    from cases import SAME_CODE

    from sparse_ext.ops import OPS

    return kernels(SAME_CODE, list(OPS), passed_before())


def show(steps: list[Step]) -> None:
    for step in steps:
        print(f"{step.seconds:4d} s  {step.name}  ->  {step.log}\n        {shlex.join(step.command)}")


if __name__ == "__main__":
    sys.exit(main())
