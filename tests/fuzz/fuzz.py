"""Fuzzes one target until its time is over, or it has found something: `python fuzz.py TARGET FOLDER libFuzzer's options`.

tools/fuzz.sh runs it. It starts from the inputs in FOLDER, where new ones go, and from the corpus of the target.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["sparse_ext"]):
    import conftest
    import launchers
    import loader
    import torch

    from sparse_ext.ops import BACKENDS
    from sparse_ext.ops.boundary import checks, launch

from choices import Choices  # noqa: E402


def kinds() -> list[tuple[str, launch.Backend, str]]:
    """(name, backend, instruction set) of the kinds of devices (conftest.KINDS) that this machine and build can run."""
    found, emulated = [], "SPARSE_EXT_EMULATED" in os.environ
    for kind in conftest.KINDS:
        device, _, isa = kind.partition("-")
        backend = BACKENDS["cpu"]
        if device == "cuda" or (device == "emulated" and not emulated):
            continue
        if device == "emulated":
            backend = conftest.emulated_backend()
        elif emulated and isa.startswith("v4") and not conftest.has_isa(isa):
            backend = replace(backend, module=conftest.emulated_module().cpu)
        if backend.module.use_isa(isa):
            found.append((kind, backend, isa))
    return found


def fuzz_launchers() -> Callable[[bytes], None]:
    """The first decision is the kind of device; then come those of `launchers.check`."""
    found, checks.DEBUG = kinds(), True
    print("fuzz: launchers on", *(kind for kind, _, _ in found), flush=True)

    def one(data: bytes) -> None:
        choices = Choices(data)
        _, BACKENDS["cpu"], isa = found[choices.below(256) % len(found)]
        BACKENDS["cpu"].module.use_isa(isa)
        launchers.check(choices)

    return one


def fuzz_loader() -> Callable[[bytes], None]:
    def one(data: bytes) -> None:
        loader.check(Choices(data))

    return one


def main() -> None:
    target, folder, *options = sys.argv[1:]
    torch.set_num_threads(1)
    one = {"loader": fuzz_loader, "launchers": fuzz_launchers}[target]()
    atheris.Setup([sys.argv[0], *options, folder, str(HERE / "corpus" / target)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
