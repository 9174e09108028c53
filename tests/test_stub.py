"""`sparse_ext/_C.pyi` is what tools/stubs.py writes of the compiled module."""

import ast
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("pybind11_stubgen")


def parts(text):
    """{name: code} of a stub's statements; formatting does not count."""
    names = {ast.ClassDef: "name", ast.FunctionDef: "name"}
    return {getattr(node, names.get(type(node), ""), ast.unparse(node)): ast.unparse(node) for node in ast.parse(text).body}


@pytest.mark.parametrize("kind", ["package", "emulated"])
def test_stub_is_current(kind, request):
    file = request.getfixturevalue("emulated_file") if kind == "emulated" else find_spec("sparse_ext._C").origin
    written = parts((ROOT / "sparse_ext" / "_C.pyi").read_text())
    stub = runpy.run_path(str(ROOT / "tools" / "stubs.py"))["stub"]
    found = parts(stub(Path(file)))
    without_cuda = {"_Cuda", "cuda: _Cuda"} if "_Cuda" not in found else set()
    assert found == {name: code for name, code in written.items() if name not in without_cuda}
