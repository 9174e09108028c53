"""Writes sparse_ext/_C.pyi: what pybind11-stubgen finds in the compiled module, its submodules as classes of one file.

    python tools/stubs.py MODULE     MODULE: _C_emulated*.so, or a _C*.so with CUDA kernels

A build without CUDA kernels lacks the submodule `cuda`; tests/test_stub.py then compares the rest.
"""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parent.parent / "sparse_ext" / "_C.pyi"
HEADER = """# The compiled module, written by tools/stubs.py (`make stubs`). Only sparse_ext/ops imports it.
#
# Views are tuples of pointers and sizes (csrc/python/arguments.h), which sparse_ext/ops/boundary/views.py makes. A build
# without CUDA kernels lacks `cuda`, and its `cuda_archs` is "".
"""
NUMBERS = {"typing.SupportsInt | typing.SupportsIndex": "int", "typing.SupportsFloat | typing.SupportsIndex": "float"}


def generated(module: Path) -> dict[str, ast.Module]:
    """The stubs of a module and its submodules, by name; the module itself is `__init__`."""
    name = module.name.partition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(module, folder)  # alone: beside it lie files that would hide modules of the same name
        command = [sys.executable, "-m", "pybind11_stubgen", name, "-o", "stubs"]
        subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": folder}, check=True, capture_output=True)
        return {path.stem: ast.parse(simplified(path.read_text())) for path in Path(folder, "stubs", name).glob("*.pyi")}


def simplified(text: str) -> str:
    for written, meant in NUMBERS.items():
        text = text.replace(written, meant)
    return text


def functions(stub: ast.Module, indent: str = "") -> list[str]:
    """The functions of a stub, their documentation in one line."""
    lines = []
    for node in stub.body:
        if isinstance(node, ast.FunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            node.body = [ast.Expr(ast.Constant(text or ...))]
            lines += ["@staticmethod"] if indent else []
            lines += ast.unparse(node).splitlines()
    return [indent + line for line in lines]


def stub(module: Path) -> str:
    """The text of _C.pyi."""
    stubs = generated(module)
    top = stubs.pop("__init__")
    lines = ["from types import ModuleType"]
    lines += sorted(f"{n.target.id}: str" for n in top.body if isinstance(n, ast.AnnAssign) and n.target.id != "__all__")
    lines += functions(top)
    for name, submodule in sorted(stubs.items()):
        doc = repr(inspect.cleandoc(ast.get_docstring(submodule) or ""))
        lines += [f"class _{name.capitalize()}(ModuleType):", f"    {doc}", *functions(submodule, "    ")]
        lines += [f"{name}: _{name.capitalize()}"]
    return HEADER + ast.unparse(ast.parse("\n".join(lines))) + "\n"


if __name__ == "__main__":
    TARGET.write_text(stub(Path(sys.argv[1])))
