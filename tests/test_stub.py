"""`sparse_ext/_C.pyi` is current: the same functions with the same number of arguments as the compiled module."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from sparse_ext.ops import launch

STUB = ast.parse((Path(__file__).parent.parent / "sparse_ext" / "_C.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
VARIABLES = {node.target.id: ast.unparse(node.annotation) for node in STUB.body if isinstance(node, ast.AnnAssign)}


def arity(function):
    return len(function.args.posonlyargs) + len(function.args.args)


def stub_functions(body):
    return {node.name: arity(node) for node in body if isinstance(node, ast.FunctionDef)}


def class_functions(name):
    """Its own functions and those of its bases in the stub."""
    found = {}
    for base in CLASSES[name].bases:
        if base.id in CLASSES:
            found |= class_functions(base.id)
    return found | stub_functions(CLASSES[name].body)


def module_functions(module):
    """{name: number of arguments}, from the signature that pybind11 puts first in the docstring."""
    found = {}
    for name, function in inspect.getmembers(module, inspect.isbuiltin):
        # pybind11 writes types that older Pythons cannot parse: the names are enough.
        signature = function.__doc__.partition("\n")[0]
        found[name] = len(re.findall(r"[(,] ?\w+:", signature))
    return found


def test_top_level():
    assert stub_functions(STUB.body) == module_functions(launch._C)
    names = {name for name in dir(launch._C) if not name.startswith("__")} | {"cuda"}
    assert names == set(VARIABLES) | set(stub_functions(STUB.body))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_submodule(name):
    if not hasattr(launch._C, name):
        pytest.skip(f"this build has no {name} kernels")
    assert class_functions(VARIABLES[name]) == module_functions(getattr(launch._C, name))


def test_launchers_are_shared():
    """A build without CUDA checks the CUDA launchers too: both submodules have the CPU's, declared once."""
    own = {name: set(stub_functions(CLASSES[VARIABLES[name]].body)) for name in ("cpu", "cuda")}
    assert set(module_functions(launch._C.cpu)) - own["cpu"] == set(stub_functions(CLASSES["_Launchers"].body))
    assert not own["cpu"] & own["cuda"]
